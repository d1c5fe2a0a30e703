// SPDX-License-Identifier: MIT
// A tokenizer.json as it is read: vocabulary and merges, which may be large, in compact tables; the
// rest, which may not, as JSON. Memory stays below 64 MB and four times the text.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "quern/autograd/kernels/types.h"

namespace quern {

// Strings in the order in which they came, each once, with an id.
class TokenTable {
 public:
  bool insert(std::string_view token, i32 id);  // false when it is there already
  i64 find(std::string_view token) const;       // its number, or -1
  std::size_t size() const { return ids_.size(); }
  std::string_view token(std::size_t number) const;
  i32 id(std::size_t number) const { return ids_[number]; }

 private:
  std::size_t slot_of(std::string_view token) const;
  void grow();

  std::string text_;  // of all tokens
  std::vector<std::uint32_t> ends_;
  std::vector<i32> ids_;
  std::vector<std::uint32_t> slots_;  // numbers + 1, by hash; 0: empty
};

struct TokenizerDocument {
  static constexpr std::size_t kMaxBytes = 64 << 20;
  static constexpr std::size_t kMaxDepth = 64;
  static constexpr std::size_t kMaxVocab = 400'000;  // published ones end at 262,144
  static constexpr std::size_t kMaxMerges = 1'000'000;
  static constexpr std::size_t kMaxOtherValues = 400'000;  // 50,000 added tokens

  std::string_view left(std::size_t rank) const;
  std::string_view right(std::size_t rank) const;
  std::size_t merges() const { return merge_ends.size() / 2; }

  nlohmann::json rest;  // model.vocab is an empty object here, model.merges an empty array
  TokenTable vocab;
  std::string bad_token;  // the first whose id is no number from 0 to kMaxVocab - 1, ...
  nlohmann::json bad_id = nullptr;
  bool has_bad_id = false;  // ... if there is one
  std::string merge_text;
  std::vector<std::uint32_t> merge_ends;  // of the left token and the right one, in turn
};

// Throws DataError naming `file`: line and column where the text is not JSON, a key that occurs
// twice, what is beyond the limits, and a merge that is neither ["a", "b"] nor "a b".
TokenizerDocument parse_tokenizer_document(std::string_view text, const std::string& file);

}  // namespace quern
