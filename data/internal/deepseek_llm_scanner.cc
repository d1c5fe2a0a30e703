// SPDX-License-Identifier: MIT
// DeepSeek-LLM's rule: one expression after another, each cutting what matches out of the pieces
// that the ones before have left:
//   [\r\n]   \s?[letters]+   \s?[marks]+   \s+$   [一-龥ࠀ-一가-퟿]+   and each number alone.
// The letters are those of the scripts with two cases; the marks take in the letters of ASCII, so
// that "né" falls into "n" and "é".
#include "quern/data/internal/piece_scanners.h"
#include "quern/data/internal/unicode_classes.h"

namespace quern::internal {
namespace {

Character read(std::string_view text, std::size_t at) {
  return read_deepseek_llm_character(text, at);
}

Classes classes_at(std::string_view text, std::size_t at) {
  return at < text.size() ? read(text, at).classes : Classes(0);
}

std::size_t end_of_run(std::string_view text, std::size_t at, Classes classes) {
  while (at < text.size()) {
    const Character c = read(text, at);
    if (!(c.classes & classes)) break;
    at += c.bytes;
  }
  return at;
}

// The end of a match of \s?[set]+ at `at`, or `at`.
std::size_t end_of_match(std::string_view text, std::size_t at, Classes set) {
  const Character c = read(text, at);
  if ((c.classes & kSpace) && !(c.classes & kNewline)) {
    const std::size_t end = end_of_run(text, at + c.bytes, set);
    if (end > at + c.bytes) return end;
  }
  return end_of_run(text, at, set);
}

// Whether a match of \s?[set]+ begins with this character.
bool begins_match(std::string_view text, std::size_t at, Character c, Classes set) {
  if (c.classes & set) return true;
  return (c.classes & kSpace) && (classes_at(text, at + c.bytes) & set);
}

// Lines and letters.
std::size_t end_of_first_stage(std::string_view text, std::size_t at) {
  Character c = read(text, at);
  if (c.classes & kNewline) return at + 1;
  if (const std::size_t end = end_of_match(text, at, kLlmLetter); end > at) return end;
  while (at < text.size()) {
    c = read(text, at);
    if ((c.classes & kNewline) || begins_match(text, at, c, kLlmLetter)) break;
    at += c.bytes;
  }
  return at;
}

std::size_t end_of_second_stage(std::string_view text, std::size_t at) {
  if (const std::size_t end = end_of_match(text, at, kLlmMark); end > at) return end;
  while (at < text.size()) {
    const Character c = read(text, at);
    if (begins_match(text, at, c, kLlmMark)) break;
    at += c.bytes;
  }
  return at;
}

// The white space at the end is cut off.
std::size_t end_of_third_stage(std::string_view text, std::size_t at) {
  std::size_t solid = at;  // after the last character that is not white space
  while (at < text.size()) {
    const Character c = read(text, at);
    at += c.bytes;
    if (!(c.classes & kSpace)) solid = at;
  }
  return solid;
}

// Runs of characters that are in the CJK set, or not; a number is alone.
std::size_t end_of_last_stage(std::string_view text, std::size_t at) {
  const Character first = read(text, at);
  at += first.bytes;
  while (at < text.size() && !(first.classes & kNumber)) {
    const Character c = read(text, at);
    if ((c.classes ^ first.classes) & (kLlmCjk | kNumber)) break;
    at += c.bytes;
  }
  return at;
}

}  // namespace

std::size_t end_of_deepseek_llm_piece(std::string_view text, std::size_t at,
                                      std::size_t (&stage_ends)[3]) {
  auto& [first, second, third] = stage_ends;
  if (first <= at) first = end_of_first_stage(text, at);
  if (second <= at) {
    second = end_of_second_stage(text.substr(0, first), at);
    third = end_of_third_stage(text.substr(0, second), at);
  }
  if (third <= at) third = second;  // nothing but white space is left of it
  return end_of_last_stage(text.substr(0, third), at);
}

}  // namespace quern::internal
