// SPDX-License-Identifier: MIT
// The GPT-2 splitting as a hand-written scanner: a table for ASCII, utf8proc for the rest.
#include "quern/data/pretokenize.h"

#include <utf8proc.h>

#include <array>
#include <cstdint>

#include "quern/autograd/error.h"

namespace quern {
namespace {

enum class Kind : std::uint8_t { kLetter, kNumber, kSpace, kOther };

struct Character {
  Kind kind;
  std::size_t bytes;
};

constexpr std::array<Kind, 128> kAsciiKinds = [] {
  std::array<Kind, 128> kinds{};
  for (int c = 0; c < 128; ++c) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    const bool space = c == ' ' || (c >= '\t' && c <= '\r');
    kinds[c] = letter                 ? Kind::kLetter
               : c >= '0' && c <= '9' ? Kind::kNumber
               : space                ? Kind::kSpace
                                      : Kind::kOther;
  }
  return kinds;
}();

constexpr utf8proc_int32_t kNextLine = 0x85;  // white space, although its category is "control"

Kind kind_of(utf8proc_int32_t code_point) {
  switch (utf8proc_category(code_point)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
      return Kind::kLetter;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
      return Kind::kNumber;
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return Kind::kSpace;
    default:
      return code_point == kNextLine ? Kind::kSpace : Kind::kOther;
  }
}

// The character at `at`, which lies inside the text.
Character read(std::string_view text, std::size_t at) {
  const auto byte = static_cast<unsigned char>(text[at]);
  if (byte < 128) return {kAsciiKinds[byte], 1};
  const std::size_t left = text.size() - at < 4 ? text.size() - at : 4;
  utf8proc_int32_t code_point = 0;
  const auto bytes = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + at,
                                      static_cast<utf8proc_ssize_t>(left), &code_point);
  if (bytes <= 0) return {Kind::kOther, 1};
  return {kind_of(code_point), static_cast<std::size_t>(bytes)};
}

// Length of the contraction ('s 't 're 've 'm 'll 'd) that `text` starts with, or 0.
std::size_t contraction(std::string_view text) {
  if (text.size() < 2 || text[0] != '\'') return 0;
  switch (text[1]) {
    case 's':
    case 't':
    case 'm':
    case 'd':
      return 2;
    case 'r':
    case 'v':
      return text.size() > 2 && text[2] == 'e' ? 3 : 0;
    case 'l':
      return text.size() > 2 && text[2] == 'l' ? 3 : 0;
    default:
      return 0;
  }
}

// Where the run of characters of this kind that holds `at` ends; `last` is where its last
// character begins.
std::size_t end_of_run(std::string_view text, std::size_t at, Kind kind, std::size_t& last) {
  while (at < text.size()) {
    const Character c = read(text, at);
    if (c.kind != kind) break;
    last = at;
    at += c.bytes;
  }
  return at;
}

}  // namespace

std::size_t first_piece(std::string_view text) {
  QUERN_ASSERT(!text.empty());
  if (const std::size_t n = contraction(text)) return n;
  Character c = read(text, 0);
  std::size_t last = 0;
  if (text[0] == ' ' && text.size() > 1) {  // one blank goes with the word after it
    const Character next = read(text, 1);
    if (next.kind != Kind::kSpace) return end_of_run(text, 1, next.kind, last);
  }
  const std::size_t end = end_of_run(text, 0, c.kind, last);
  // White space before a word leaves its last character to the word (\s+(?!\S)), unless it is the
  // only one (\s+).
  if (c.kind == Kind::kSpace && end < text.size() && last > 0) return last;
  return end;
}

std::size_t next_safe_cut(std::string_view text, std::size_t from) {
  const auto is_letter = [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte < 128 && kAsciiKinds[byte] == Kind::kLetter;
  };
  // No alternative of the expression goes on from a letter to a blank.
  for (std::size_t at = from > 0 ? from : 1; at < text.size(); ++at) {
    if (text[at] == ' ' && is_letter(text[at - 1])) return at;
  }
  return text.size();
}

}  // namespace quern
