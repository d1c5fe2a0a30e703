// SPDX-License-Identifier: MIT
// JSON from strangers: read without recursion, bounded in depth, in number of values and in memory
// while it is read, no key twice. Every refusal names file, line and column.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "quern/data/internal/json_errors.h"

namespace quern {

struct JsonLimits {
  std::size_t max_bytes = 64 << 20;
  int max_depth = 64;
  std::size_t max_values = 10'000'000;
  std::size_t max_string = kMaxJsonString;
};

// Throws DataError; so it does where the values would take more than 56 MiB and three times the
// text (the text itself being the fourth). The text begins at line `first_line` of `file`.
nlohmann::json parse_bounded_json(std::string_view text, const std::string& file,
                                  const JsonLimits& limits = {}, int first_line = 1);

// The string under `key` of one object, the text of a JSONL line. Everything else is checked and
// dropped, so nothing is held but this string. The text begins at line `line` of `file`. Throws
// DataError.
std::string read_json_line(std::string_view text, const std::string& key, const std::string& file,
                           int line, const JsonLimits& limits = {});

}  // namespace quern
