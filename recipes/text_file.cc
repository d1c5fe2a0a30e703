// SPDX-License-Identifier: MIT
// Small configuration files, read whole and pointed into.
#include "quern/recipes/internal/text_file.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <memory>

#include "quern/autograd/error.h"
#include "quern/data/file_errors.h"
#include "quern/data/utf8.h"

namespace quern::internal {

std::string read_text_file(const std::string& path, std::size_t max_bytes) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"),
                                                             &std::fclose);
  if (!file) refuse_unreadable<ConfigError>(path, errno);
  // Read in pieces: what a path leads to (a pipe, a device) may have no size, or no end.
  std::string text;
  char piece[1 << 14];
  while (const std::size_t n = std::fread(piece, 1, sizeof piece, file.get())) {
    text.append(piece, n);
    if (text.size() <= max_bytes) continue;
    throw ConfigError({.file = path,
                       .what = "is longer than " + std::to_string(max_bytes) + " bytes",
                       .hint = "is this the right file?"});
  }
  if (std::ferror(file.get())) refuse_unreadable<ConfigError>(path, errno);
  return text;
}

void check_plain_text(std::string_view text, const std::string& file_name) {
  if (text.starts_with("\xEF\xBB\xBF")) {
    throw ConfigError({.file = file_name,
                       .line = 1,
                       .column = 1,
                       .what = "begins with a byte-order mark",
                       .hint = "save it as UTF-8 without one"});
  }
  if (text.starts_with("\x89HDF")) {
    throw ConfigError({.file = file_name,
                       .what = "is an HDF5 file",
                       .expected = "a text file",
                       .hint = "quern generate and quern evaluate take these"});
  }
  if (text.starts_with("\xFF\xFE") || text.starts_with("\xFE\xFF")) {
    throw ConfigError({.file = file_name,
                       .line = 1,
                       .column = 1,
                       .what = "is UTF-16",
                       .expected = "UTF-8",
                       .hint = "convert it, as with iconv -f UTF-16 -t UTF-8"});
  }
  const std::size_t nul = text.find('\0'), bad = find_invalid_utf8(text);
  if (std::min(nul, bad) == std::string_view::npos) return;
  const Position at = position_at(text, std::min(nul, bad));
  ErrorFacts facts{.file = file_name, .line = at.line, .column = at.column};
  facts.what = nul < bad ? "a NUL byte in a text" : "a byte that is not UTF-8";
  facts.hint = nul < bad ? "is this a text file?" : "save the file as UTF-8";
  throw ConfigError(std::move(facts));
}

Position position_at(std::string_view text, std::size_t offset) {
  const std::string_view before = text.substr(0, std::min(offset, text.size()));
  const std::size_t line_start = before.rfind('\n') + 1;  // npos + 1 is 0
  return {.line = 1 + static_cast<int>(std::ranges::count(before, '\n')),
          .column = 1 + static_cast<int>(before.size() - line_start)};
}

std::string one_line(std::string_view text) {
  constexpr std::size_t kLongest = 120;
  std::string line(text.substr(0, kLongest));
  for (char& c : line) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = ' ';
  }
  return text.size() > kLongest ? line + "..." : line;
}

}  // namespace quern::internal
