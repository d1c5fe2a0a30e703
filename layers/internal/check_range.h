// SPDX-License-Identifier: MIT
// Range checks of configuration values, for configs and recipes. All throw ConfigError.
#pragma once

#include <cstdint>
#include <string>

namespace quern::internal {

// The shortest decimal text that reads back as `value`.
std::string to_text(double value);

[[noreturn]] void refuse(std::string key, std::string expected, std::string actual);

// Low and high are allowed. NaN is outside every range.
void check_range(const std::string& key, std::int64_t value, std::int64_t low, std::int64_t high);
void check_range(const std::string& key, double value, double low, double high);

}  // namespace quern::internal
