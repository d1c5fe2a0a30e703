// SPDX-License-Identifier: MIT
// DeepSeek-V3's rule. First numbers, in groups of three from the left, and runs of CJK characters
// are cut out; then this expression works on each segment by itself:
//   [!-/:-@[-`{-~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|
//   \s*[\r\n]+|\s+(?!\S)|\s+
// What it does not match, controls for example, stays in one piece up to the next match.
#include "quern/data/internal/piece_scanners.h"
#include "quern/data/internal/unicode_classes.h"

namespace quern::internal {
namespace {

constexpr Classes kWord = kLetter | kMark;
constexpr Classes kSign = kPunctuation | kSymbol;

std::size_t end_of_segment(std::string_view text, std::size_t at) {
  const Classes kind = read_character(text, at).classes & (kNumber | kV3Cjk);
  const int most = kind & kNumber ? 3 : -1;  // characters; -1: any number
  for (int n = 0; n != most && at < text.size(); ++n) {
    const Character c = read_character(text, at);
    if ((c.classes & (kNumber | kV3Cjk)) != kind) break;
    at += c.bytes;
  }
  return at;
}

// Where the characters end that have one of the classes.
std::size_t end_of_run(std::string_view text, std::size_t at, Classes classes) {
  while (at < text.size()) {
    const Character c = read_character(text, at);
    if (!(c.classes & classes)) break;
    at += c.bytes;
  }
  return at;
}

Classes classes_at(std::string_view text, std::size_t at) {
  return at < text.size() ? read_character(text, at).classes : Classes(0);
}

// \s*[\r\n]+|\s+(?!\S)|\s+
std::size_t end_of_space(std::string_view text, std::size_t at) {
  const std::size_t begin = at;
  std::size_t last = at;  // where the last character begins
  std::size_t after_newline = 0;
  while (at < text.size()) {
    const Character c = read_character(text, at);
    if (!(c.classes & kSpace)) break;
    last = at;
    at += c.bytes;
    if (c.classes & kNewline) after_newline = at;
  }
  if (after_newline > 0) return after_newline;
  return at < text.size() && last > begin ? last : at;
}

// Characters that no alternative begins with, but for the last if a word follows.
std::size_t end_of_unmatched(std::string_view text, std::size_t at) {
  const std::size_t begin = at;
  while (at < text.size()) {
    const Character c = read_character(text, at);
    if (c.classes & (kWord | kSign | kSpace)) break;
    const std::size_t after = at + c.bytes;
    if (at > begin && (classes_at(text, after) & kWord)) break;
    at = after;
  }
  return at;
}

std::size_t end_of_match(std::string_view text, std::size_t at) {
  const Character c = read_character(text, at);
  const std::size_t after = at + c.bytes;
  const Classes next = classes_at(text, after);
  if (c.classes & kSign) {
    if (c.bytes == 1 && (next & kAsciiLetter)) return end_of_run(text, after, kAsciiLetter);
    return end_of_run(text, end_of_run(text, after, kSign), kNewline);
  }
  if (c.classes & kWord) return end_of_run(text, after, kWord);
  if (!(c.classes & kNewline) && (next & kWord)) return end_of_run(text, after, kWord);
  if (text[at] == ' ' && (next & kSign)) {
    return end_of_run(text, end_of_run(text, after, kSign), kNewline);
  }
  return c.classes & kSpace ? end_of_space(text, at) : end_of_unmatched(text, at);
}

}  // namespace

std::size_t end_of_deepseek_v3_piece(std::string_view text, std::size_t at, std::size_t& segment) {
  if (segment <= at) {
    segment = end_of_segment(text, at);
    if (read_character(text, at).classes & kNumber) return segment;
  }
  return end_of_match(text.substr(0, segment), at);
}

}  // namespace quern::internal
