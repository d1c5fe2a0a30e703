// SPDX-License-Identifier: MIT
// Range checks of configuration values, for configs and recipes. All throw ConfigError.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>

namespace quern::internal {

// The shortest decimal text that reads back as `value`.
std::string to_text(double value);

[[noreturn]] void refuse(std::string key, std::string expected, std::string actual,
                         std::string hint = "");

// Low and high are allowed. NaN is outside every range.
void check_range(const std::string& key, std::int64_t value, std::int64_t low, std::int64_t high,
                 const std::string& hint = "");
void check_range(const std::string& key, double value, double low, double high);

// The value is one of the words; the hint is the nearest of them.
void check_word(const std::string& key, const std::string& value,
                std::initializer_list<std::string> words);

}  // namespace quern::internal
