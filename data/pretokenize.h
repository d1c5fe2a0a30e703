// SPDX-License-Identifier: MIT
// Cuts text into the pieces inside which byte pairs may merge, by one of the rules known here. One
// pass, no regular expression engine, any bytes: a byte that is not part of valid UTF-8 counts as a
// character of no class.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace quern {

// Which rule; data/internal/splitting_json.cc has the expressions, with Unicode classes.
enum class Splitting : std::uint8_t {
  kGpt2,         // contractions, words, numbers, the rest, each with a blank before it; white space
  kDeepseekLlm,  // each line end and digit alone; words, punctuation, CJK
  kDeepseekV3,   // numbers by three digits, CJK, words with marks, punctuation, white space
};

// "gpt2", "deepseek_llm", "deepseek_v3".
std::string_view name_of(Splitting splitting);
std::optional<Splitting> splitting_named(std::string_view name);

// Gives one piece after another; laid end to end they are the text. Linear in the text.
class PieceScanner {
 public:
  PieceScanner(Splitting splitting, std::string_view text) : splitting_(splitting), text_(text) {}

  std::string_view next();  // empty at the end

 private:
  std::string_view take(std::size_t end);

  Splitting splitting_;
  std::string_view text_;
  std::size_t at_ = 0;
  // Where the pieces end that each stage of a DeepSeek rule leaves to the next; the V3 rule has one
  // stage, the LLM rule three.
  std::size_t ends_[3] = {};
};

// Calls f(piece) for each piece of `text`, in order.
template <class F>
void for_each_piece(Splitting splitting, std::string_view text, F&& f) {
  PieceScanner scanner(splitting, text);
  for (std::string_view piece = scanner.next(); !piece.empty(); piece = scanner.next()) f(piece);
}

// The first place at or after `from` (or the end) where `text` can be cut in two without changing
// its pieces under any rule, so that the halves can be worked on apart.
std::size_t next_safe_cut(std::string_view text, std::size_t from);

}  // namespace quern
