// SPDX-License-Identifier: MIT
// Merging of the byte pairs in one piece of text: by scanning when it is short, by a heap when it
// is longer.
#include <queue>
#include <utility>

#include "quern/autograd/error.h"
#include "quern/data/internal/tokenizer_tables.h"

namespace quern::internal {

void encode_short_piece(const TokenizerTables& tables, std::string_view piece,
                        std::vector<i32>& ids) {
  const std::size_t start = ids.size();
  for (const char byte : piece) ids.push_back(tables.byte_ids[static_cast<unsigned char>(byte)]);
  std::vector<i32>& symbols = ids;  // merged in place, from `start` on
  for (;;) {
    i32 best = kNoRank;
    std::size_t best_at = start;
    for (std::size_t i = start; i + 1 < symbols.size(); ++i) {
      const i32 rank = tables.ranks.find(symbols[i], symbols[i + 1]);
      if (rank < best) {
        best = rank;
        best_at = i;
      }
    }
    if (best == kNoRank) return;
    symbols[best_at] = tables.parts.merges[best].result;
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(best_at) + 1);
  }
}

namespace {

constexpr std::size_t kVeryLong = 1
                                  << 16;  // bytes; there the tables by rank are worth their making

// A piece as a linked list of symbols, with a heap of the pairs that may merge. An entry of the
// heap may be stale: it counts when the two symbols at its place are still those of its merge.
class LinkedPiece {
 public:
  LinkedPiece(const TokenizerTables& tables, std::string_view piece) : tables_(tables) {
    const auto n = static_cast<i32>(piece.size());
    symbols_.reserve(piece.size());
    for (i32 i = 0; i < n; ++i) {
      const i32 id = tables.byte_ids[static_cast<unsigned char>(piece[i])];
      symbols_.push_back({id, i - 1, i + 1 < n ? i + 1 : -1});
    }
    for (i32 i = 0; i + 1 < n; ++i) push(i);
  }

  void merge_all() {
    while (!heap_.empty()) {
      const auto [rank, at] = heap_.top();
      heap_.pop();
      const auto& merge = tables_.parts.merges[rank];
      Symbol& left = symbols_[at];
      if (left.id != merge.left || left.next < 0) continue;
      Symbol& right = symbols_[left.next];
      if (right.id != merge.right) continue;
      left.id = merge.result;
      right.id = -1;
      left.next = right.next;
      if (left.next >= 0) symbols_[left.next].previous = at;
      push(at);
      if (left.previous >= 0) push(left.previous);
    }
  }

  void append_to(std::vector<i32>& ids) const {
    for (i32 at = symbols_.empty() ? -1 : 0; at >= 0; at = symbols_[at].next) {
      ids.push_back(symbols_[at].id);
    }
  }

 private:
  struct Symbol {
    i32 id;  // -1: merged into the one before
    i32 previous;
    i32 next;
  };
  using Entry = std::pair<i32, i32>;  // rank, place: the lowest rank first, then the leftmost

  void push(i32 at) {
    const Symbol& left = symbols_[at];
    if (left.next < 0) return;
    const i32 rank = tables_.ranks.find(left.id, symbols_[left.next].id);
    if (rank != kNoRank) heap_.emplace(rank, at);
  }

  const TokenizerTables& tables_;
  std::vector<Symbol> symbols_;
  std::priority_queue<Entry, std::vector<Entry>, std::greater<>> heap_;
};

}  // namespace

void encode_long_piece(const TokenizerTables& tables, std::string_view piece,
                       std::vector<i32>& ids) {
  // Places are 32 bits wide; a piece of 2 GB is beyond what a corpus line may hold.
  if (piece.size() > static_cast<std::size_t>(kNoRank)) {
    throw DataError({.what = "a run of characters without a break is longer than 2 GB"});
  }
  if (tables.merges_rise && piece.size() >= kVeryLong) {
    return encode_very_long_piece(tables, piece, ids);
  }
  LinkedPiece linked(tables, piece);
  linked.merge_all();
  linked.append_to(ids);
}

}  // namespace quern::internal
