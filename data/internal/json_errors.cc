// SPDX-License-Identifier: MIT
#include "quern/data/internal/json_errors.h"

#include <algorithm>
#include <cstdio>

#include "quern/data/utf8.h"

namespace quern {
namespace {

constexpr std::size_t kMaxNumber = 1024, kMaxGap = 65536;

bool has(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

// What stands between two marks, the second one being optional.
std::string between(std::string_view text, std::string_view from, std::string_view to) {
  const std::size_t at = text.find(from);
  if (at == std::string_view::npos) return "";
  const std::string_view rest = text.substr(at + from.size());
  return std::string(rest.substr(0, rest.find(to)));
}

std::string remedy(std::string_view said) {
  if (has(said, "unexpected end of input") || has(said, "missing closing quote")) {
    return "it is cut off, or a quote or bracket is not closed";
  }
  if (has(said, "invalid literal")) {
    return "texts need double quotes; the only bare words are true, false and null";
  }
  if (has(said, "control character")) return "write it as an escape, such as \\n";
  if (has(said, "forbidden character after backslash")) return "a backslash itself is written \\\\";
  if (has(said, "surrogate")) return "a character beyond \\uffff needs both of its halves";
  if (has(said, "unexpected '}'") || has(said, "unexpected ']'")) {
    return "no comma may stand before it";
  }
  return "correct the text at this place";
}

}  // namespace

std::string json_excerpt(std::string_view text) {
  constexpr std::size_t kLongest = 80;
  std::string line = with_invalid_utf8_replaced(text.substr(0, kLongest));
  for (char& c : line) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = ' ';
  }
  return text.size() > kLongest ? line + "..." : line;
}

// "... while parsing value - unexpected '}'; expected string literal", or "- invalid literal; last
// read: 'N'", or "number overflow parsing '1e999'".
ErrorFacts json_syntax_facts(std::string_view said) {
  if (has(said, "number overflow")) {
    return {.what = "a number beyond any float",
            .actual = json_excerpt(between(said, "parsing '", "'")),
            .hint = "put it in quotes if it is a text"};
  }
  const std::string detail = between(said, " - ", "; last read: ");
  ErrorFacts facts{.what = "not valid JSON", .hint = remedy(said)};
  if (detail.starts_with("unexpected ")) {
    facts.actual = json_excerpt(between(detail, "unexpected ", "; expected "));
    facts.expected = json_excerpt(between(detail, "; expected ", "\n"));
  } else if (detail.starts_with("invalid literal")) {
    facts.actual = json_excerpt(between(said, "; last read: ", "; expected "));
  } else {
    facts.what += ": " + json_excerpt(detail);
  }
  return facts;
}

ErrorFacts placed(ErrorFacts facts, const std::string& file, std::string_view text,
                  std::size_t offset, int first_line) {
  const std::string_view before = text.substr(0, offset);
  const std::size_t line_start = before.find_last_of('\n') + 1;  // npos + 1 is 0
  facts.file = file;
  facts.line = first_line + static_cast<int>(std::ranges::count(before, '\n'));
  facts.column = 1 + static_cast<int>(before.size() - line_start);
  return facts;
}

void check_json_utf8(std::string_view text, const std::string& file, int first_line) {
  const std::size_t bad = find_invalid_utf8(text);
  if (bad == std::string_view::npos) return;
  char byte[8];
  std::snprintf(byte, sizeof byte, "0x%02X", static_cast<unsigned char>(text[bad]));
  const bool wide = bad == 0 && (text.starts_with("\xFF\xFE") || text.starts_with("\xFE\xFF"));
  throw DataError(placed({.what = "not UTF-8",
                          .actual = wide ? "UTF-16" : std::string("the byte ") + byte,
                          .hint = std::string("convert the file, as with iconv -f ") +
                                  (wide ? "UTF-16" : "LATIN1") + " -t UTF-8"},
                         file, text, bad, first_line));
}

void check_json_text(std::string_view text, const std::string& file, int first_line,
                     std::size_t max_string) {
  check_json_utf8(text, file, first_line);
  const auto check = [&](std::size_t begin, std::size_t end, std::size_t most, const char* what) {
    if (end - begin <= most) return;
    const ErrorFacts facts{.what = std::string(what) + " is too long",
                           .expected = "at most " + std::to_string(most) + " bytes",
                           .hint = "is this the right file?"};
    throw DataError(placed(facts, file, text, begin, first_line));
  };
  const auto end_of = [&](std::size_t i, std::string_view kind) {
    return std::min(text.find_first_not_of(kind, i), text.size());
  };
  for (std::size_t i = 0, end = 0; i < text.size(); i = std::max(end, i + 1)) {
    if (text[i] == '"') {
      for (end = i + 1; end < text.size() && text[end] != '"'; ++end) end += text[end] == '\\';
      check(i, end++, max_string, "a string");
    } else if (end = end_of(i, "0123456789+-.eE"); end > i) {
      check(i, end, kMaxNumber, "a number");
    } else if (end = end_of(i, " \t\n\r"); end > i) {
      check(i, end, kMaxGap, "a gap");
    }
  }
}

}  // namespace quern
