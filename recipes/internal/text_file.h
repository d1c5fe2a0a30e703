// SPDX-License-Identifier: MIT
// Small configuration files: read with a bound on their size, and pointed into by line and column.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace quern::internal {

// The whole file. Throws ConfigError where there is no such file or it is longer than `max_bytes`,
// IoError where the file system refuses.
std::string read_text_file(const std::string& path, std::size_t max_bytes);

// Throws ConfigError at a byte-order mark, and at the first byte that is NUL or no UTF-8.
void check_plain_text(std::string_view text, const std::string& file_name);

struct Position {
  int line = 1;    // 1-based
  int column = 1;  // 1-based, in bytes
};
Position position_at(std::string_view text, std::size_t offset);

// `text` made fit for one line of an error: control characters replaced, cut when long.
std::string one_line(std::string_view text);

}  // namespace quern::internal
