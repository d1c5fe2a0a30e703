// SPDX-License-Identifier: MIT
// Merging in a very long piece, one letter repeated for megabytes, in linear time and at most 12
// bytes per byte of it. It asks of the merges what training makes of them: that a merge comes after
// those that make its parts (TokenizerTables::merges_rise). Then the pairs a merge gives rise to
// have higher ranks, and rank after rank can be finished for good.
#include <algorithm>
#include <bit>
#include <cstdint>

#include "quern/autograd/error.h"
#include "quern/data/internal/tokenizer_tables.h"

namespace quern::internal {
namespace {

// Symbols lie at the places of their first bytes. ids_ at a symbol's first place is its id, at its
// last minus its length (when it is longer than 1), and negative between: so both neighbours are
// found without links. Each place that begins a pair is in the list of the pair's rank, as a rule
// in rising order.
class RankedPlaces {
 public:
  RankedPlaces(const TokenizerTables& tables, std::string_view piece)
      : tables_(tables),
        ids_(piece.size()),
        next_(piece.size(), kNowhere),
        previous_(piece.size(), kNowhere),
        lists_(tables.parts.merges.size()),
        active_(tables.parts.merges.size() / 64 + 1) {
    for (std::size_t i = 0; i < piece.size(); ++i) {
      ids_[i] = tables.byte_ids[static_cast<unsigned char>(piece[i])];
    }
    for (std::size_t i = 0; i + 1 < piece.size(); ++i) add(static_cast<i32>(i));
  }

  void merge_all() {
    for (std::size_t word = 0; word < active_.size();) {
      if (active_[word] == 0) {
        ++word;
        continue;
      }
      merge_rank(static_cast<i32>(64 * word) + std::countr_zero(active_[word]));
    }
  }

  void append_to(std::vector<i32>& ids) const {
    for (i32 at = 0; at < size(); at += length(ids_[at])) ids.push_back(ids_[at]);
  }

 private:
  static constexpr i32 kNowhere = -1;
  struct List {
    i32 first = kNowhere;
    i32 last = kNowhere;
    bool rises = true;
  };

  i32 size() const { return static_cast<i32>(ids_.size()); }
  i32 length(i32 id) const { return static_cast<i32>(tables_.parts.token_bytes[id].size()); }

  // Of the pair that begins at the symbol at `at`.
  i32 rank(i32 at) const {
    const i32 right = at + length(ids_[at]);
    return right < size() ? tables_.ranks.find(ids_[at], ids_[right]) : kNoRank;
  }

  void add(i32 at) {
    const i32 r = rank(at);
    if (r == kNoRank) return;
    List& list = lists_[r];
    if (list.first == kNowhere) {
      list = {.first = at};
      active_[r / 64] |= std::uint64_t(1) << (r % 64);
    } else {
      list.rises = list.rises && at > list.last;
      next_[list.last] = at;
    }
    previous_[at] = list.last;
    next_[at] = kNowhere;
    list.last = at;
  }

  void remove(i32 at) {
    const i32 r = rank(at);
    if (r == kNoRank) return;
    List& list = lists_[r];
    (previous_[at] == kNowhere ? list.first : next_[previous_[at]]) = next_[at];
    (next_[at] == kNowhere ? list.last : previous_[next_[at]]) = previous_[at];
    if (list.first == kNowhere) active_[r / 64] &= ~(std::uint64_t(1) << (r % 64));
  }

  void merge_rank(i32 r) {
    if (!lists_[r].rises) sort(lists_[r]);
    const auto& merge = tables_.parts.merges[r];
    while (lists_[r].first != kNowhere) merge_at(lists_[r].first, merge.result);
  }

  void merge_at(i32 at, i32 result) {
    const i32 right = at + length(ids_[at]);
    const i32 end = right + length(ids_[right]);
    const i32 before = at == 0 ? kNowhere : ids_[at - 1] >= 0 ? at - 1 : at + ids_[at - 1];
    if (before != kNowhere) remove(before);
    remove(at);
    remove(right);
    ids_[right] = kNowhere;
    ids_[end - 1] = at - end;
    ids_[at] = result;
    if (before != kNowhere) add(before);
    add(at);
  }

  void sort(List& list) {
    std::vector<i32> places;
    for (i32 at = list.first; at != kNowhere; at = next_[at]) places.push_back(at);
    std::sort(places.begin(), places.end());
    for (std::size_t i = 0; i < places.size(); ++i) {
      previous_[places[i]] = i == 0 ? kNowhere : places[i - 1];
      next_[places[i]] = i + 1 == places.size() ? kNowhere : places[i + 1];
    }
    list = {.first = places.front(), .last = places.back()};
  }

  const TokenizerTables& tables_;
  std::vector<i32> ids_;
  std::vector<i32> next_, previous_;   // in the list of the pair's rank
  std::vector<List> lists_;            // by rank
  std::vector<std::uint64_t> active_;  // a bit for each rank whose list is not empty
};

}  // namespace

void encode_very_long_piece(const TokenizerTables& tables, std::string_view piece,
                            std::vector<i32>& ids) {
  QUERN_ASSERT(tables.merges_rise && piece.size() < static_cast<std::size_t>(kNoRank));
  RankedPlaces places(tables, piece);
  places.merge_all();
  places.append_to(ids);
}

}  // namespace quern::internal
