// SPDX-License-Identifier: MIT
// The choice of the rule, and GPT-2's:
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
#include "quern/data/pretokenize.h"

#include "quern/autograd/error.h"
#include "quern/data/internal/piece_scanners.h"
#include "quern/data/internal/unicode_classes.h"

namespace quern {
namespace internal {
namespace {

constexpr Classes kKinds = kLetter | kNumber | kSpace;  // of these GPT-2 knows one, or none

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
std::size_t end_of_run(std::string_view text, std::size_t at, Classes kind, std::size_t& last) {
  while (at < text.size()) {
    const Character c = read_character(text, at);
    if ((c.classes & kKinds) != kind) break;
    last = at;
    at += c.bytes;
  }
  return at;
}

}  // namespace

std::size_t end_of_gpt2_piece(std::string_view text, std::size_t at) {
  if (const std::size_t n = contraction(text.substr(at))) return at + n;
  const Classes kind = read_character(text, at).classes & kKinds;
  std::size_t last = at;
  if (text[at] == ' ' && at + 1 < text.size()) {  // one blank goes with the word after it
    const Classes next = read_character(text, at + 1).classes & kKinds;
    if (next != kSpace) return end_of_run(text, at + 1, next, last);
  }
  const std::size_t end = end_of_run(text, at, kind, last);
  // White space before a word leaves its last character to the word (\s+(?!\S)), unless it is the
  // only one (\s+).
  if (kind == kSpace && end < text.size() && last > at) return last;
  return end;
}

}  // namespace internal

namespace {
constexpr std::string_view kNames[] = {"gpt2", "deepseek_llm", "deepseek_v3"};
}

std::string_view name_of(Splitting splitting) { return kNames[static_cast<int>(splitting)]; }

std::optional<Splitting> splitting_named(std::string_view name) {
  for (const auto s : {Splitting::kGpt2, Splitting::kDeepseekLlm, Splitting::kDeepseekV3}) {
    if (name_of(s) == name) return s;
  }
  return std::nullopt;
}

std::string_view PieceScanner::next() {
  if (at_ == text_.size()) return {};
  switch (splitting_) {
    case Splitting::kGpt2:
      return take(internal::end_of_gpt2_piece(text_, at_));
    case Splitting::kDeepseekLlm:
      return take(internal::end_of_deepseek_llm_piece(text_, at_, ends_));
    case Splitting::kDeepseekV3:
      return take(internal::end_of_deepseek_v3_piece(text_, at_, ends_[0]));
  }
  return {};
}

std::string_view PieceScanner::take(std::size_t end) {
  QUERN_ASSERT(end > at_);
  const std::string_view piece = text_.substr(at_, end - at_);
  at_ = end;
  return piece;
}

std::size_t next_safe_cut(std::string_view text, std::size_t from) {
  const auto is_letter = [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte < 128 && (internal::kAsciiClasses[byte] & internal::kAsciiLetter);
  };
  // Under every rule a letter ends a piece where a blank follows it.
  for (std::size_t at = from > 0 ? from : 1; at < text.size(); ++at) {
    if (text[at] == ' ' && is_letter(text[at - 1])) return at;
  }
  return text.size();
}

}  // namespace quern
