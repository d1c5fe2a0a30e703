// SPDX-License-Identifier: MIT
// JSON from strangers: bounded in depth and number of values while it is read, no key twice.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace quern {

struct JsonLimits {
  std::size_t max_bytes = 64 << 20;
  int max_depth = 64;
  std::size_t max_values = 10'000'000;
};

// Throws DataError naming `file`, and line and column where the text is not JSON.
nlohmann::json parse_bounded_json(std::string_view text, const std::string& file,
                                  const JsonLimits& limits = {});

}  // namespace quern
