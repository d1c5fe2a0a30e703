// SPDX-License-Identifier: MIT
// The lookups that a tokenizer's parts are turned into once, for encoding.
#pragma once

#include <array>
#include <bitset>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "quern/data/tokenizer.h"

namespace quern::internal {

inline constexpr i32 kNoRank = std::numeric_limits<i32>::max();

// (left, right) -> rank, in an open-addressed table with linear probing.
class MergeRanks {
 public:
  explicit MergeRanks(std::size_t merges);
  bool insert(i32 left, i32 right, i32 rank);  // false when the pair has a rank already
  i32 find(i32 left, i32 right) const;         // kNoRank when the pair does not merge

 private:
  struct Slot {
    std::uint64_t pair = 0;
    i32 rank = kNoRank;
  };
  std::size_t slot_of(std::uint64_t pair) const;  // the pair's, or the empty one it would take
  std::vector<Slot> slots_;
  int shift_;
};

// The longest that a text starts with, of the added tokens that are `normalized` or not.
class AddedMatcher {
 public:
  AddedMatcher(const std::vector<TokenizerParts::Added>& added, bool normalized);
  bool empty() const { return by_content_.empty(); }
  const TokenizerParts::Added* longest_prefix(std::string_view text) const;
  const TokenizerParts::Added* find(std::string_view content) const;

 private:
  std::vector<const TokenizerParts::Added*> by_content_;  // sorted
  std::bitset<256> first_bytes_;
};

struct TokenizerTables {
  TokenizerTables(TokenizerParts unchecked, const std::string& file);  // throws DataError
  TokenizerTables(const TokenizerTables&) = delete;  // `added` points into `parts`
  TokenizerTables& operator=(const TokenizerTables&) = delete;

  // Whether a byte of the piece has no token; and the piece with U+FFFD for each such byte.
  bool lacks_byte_of(std::string_view piece) const;
  std::string with_bytes_replaced(std::string_view piece) const;

  TokenizerParts parts;
  std::array<i32, 256> byte_ids;  // -1: the byte is in no text of UTF-8, and there is no token
  bool lacks_bytes;
  MergeRanks ranks;
  bool merges_rise;  // each merge comes after all that make its parts, as training orders them
  AddedMatcher added;
  AddedMatcher normalized_added;
};

// Appends the ids of one piece of text. All give the same ids: the pair of lowest rank merges
// first, the leftmost on a tie. The first takes time quadratic in the length, the second n log n;
// it hands very long pieces to the third, which is linear but needs merges_rise.
void encode_short_piece(const TokenizerTables& tables, std::string_view piece,
                        std::vector<i32>& ids);
void encode_long_piece(const TokenizerTables& tables, std::string_view piece,
                       std::vector<i32>& ids);
void encode_very_long_piece(const TokenizerTables& tables, std::string_view piece,
                            std::vector<i32>& ids);

}  // namespace quern::internal
