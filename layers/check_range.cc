// SPDX-License-Identifier: MIT
// Range checks of configuration values.
#include "quern/layers/internal/check_range.h"

#include <charconv>

#include "quern/autograd/error.h"

namespace quern::internal {

std::string to_text(double value) {
  char buffer[32];
  return {buffer, std::to_chars(buffer, buffer + sizeof buffer, value).ptr};
}

void refuse(std::string key, std::string expected, std::string actual) {
  throw ConfigError(
      {.key = std::move(key), .expected = std::move(expected), .actual = std::move(actual)});
}

void check_range(const std::string& key, std::int64_t value, std::int64_t low, std::int64_t high) {
  if (value >= low && value <= high) return;
  refuse(key, std::to_string(low) + " to " + std::to_string(high), std::to_string(value));
}

void check_range(const std::string& key, double value, double low, double high) {
  if (value >= low && value <= high) return;
  refuse(key, to_text(low) + " to " + to_text(high), to_text(value));
}

}  // namespace quern::internal
