// SPDX-License-Identifier: MIT
// Range checks of configuration values.
#include "quern/layers/internal/check_range.h"

#include <charconv>
#include <span>

#include "quern/autograd/error.h"
#include "quern/autograd/nearest_name.h"

namespace quern::internal {

std::string to_text(double value) {
  char buffer[32];
  return {buffer, std::to_chars(buffer, buffer + sizeof buffer, value).ptr};
}

void refuse(std::string key, std::string expected, std::string actual, std::string hint) {
  throw ConfigError({.key = std::move(key),
                     .expected = std::move(expected),
                     .actual = std::move(actual),
                     .hint = std::move(hint)});
}

void check_range(const std::string& key, std::int64_t value, std::int64_t low, std::int64_t high,
                 const std::string& hint) {
  if (value >= low && value <= high) return;
  refuse(key, std::to_string(low) + " to " + std::to_string(high), std::to_string(value), hint);
}

void check_range(const std::string& key, double value, double low, double high) {
  if (value >= low && value <= high) return;
  refuse(key, to_text(low) + " to " + to_text(high), to_text(value));
}

void check_word(const std::string& key, const std::string& value,
                std::initializer_list<std::string> words) {
  std::string expected;
  size_t left = words.size();
  for (const std::string& word : words) {
    if (value == word) return;
    expected += word + (--left > 1 ? ", " : left == 1 ? " or " : "");
  }
  const std::string near = nearest_name(value, std::span(words.begin(), words.size()));
  refuse(key, expected, "'" + value + "'", near.empty() ? "" : "did you mean '" + near + "'?");
}

}  // namespace quern::internal
