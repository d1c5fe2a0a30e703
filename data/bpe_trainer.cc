// SPDX-License-Identifier: MIT
// BPE training: pieces are counted on several threads, then pairs are merged one by one, with the
// counts and places of all pairs kept up to date.
#include "quern/data/bpe_trainer.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <exception>
#include <queue>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>

#include "quern/autograd/error.h"
#include "quern/data/internal/tokenizer_document.h"
#include "quern/data/pretokenize.h"

namespace quern {
namespace {

constexpr i32 kFirstByteId = 3;
constexpr i32 kSmallestVocab = kFirstByteId + 256;
constexpr i32 kLargestVocab = TokenizerDocument::kMaxVocab;  // so that it can be read again
constexpr std::size_t kChunkBytes = 1 << 18;

// Views into the texts, which outlive the training.
using PieceCounts = std::unordered_map<std::string_view, i64>;

std::vector<std::string_view> cut_into_chunks(std::span<const std::string_view> texts,
                                              i64 max_bytes) {
  std::vector<std::string_view> chunks;
  i64 total = 0;
  for (std::string_view text : texts) {
    total += static_cast<i64>(text.size());
    while (!text.empty()) {
      const std::size_t n = next_safe_cut(text, kChunkBytes);
      chunks.push_back(text.substr(0, n));
      text.remove_prefix(n);
    }
  }
  if (total <= max_bytes) return chunks;
  std::vector<std::string_view> some;  // each chunk with which the share passes a whole number
  const double share = static_cast<double>(max_bytes) / static_cast<double>(total);
  const auto taken = [share](std::size_t n) { return std::ceil(share * static_cast<double>(n)); };
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    if (taken(i + 1) > taken(i)) some.push_back(chunks[i]);
  }
  return some;
}

PieceCounts count_pieces(const std::vector<std::string_view>& chunks,
                         const BpeTrainerOptions& options) {
  const int num_threads = options.num_threads;
  std::vector<PieceCounts> counts(num_threads);
  std::vector<std::exception_ptr> failures(num_threads);
  std::atomic<std::size_t> next = 0;
  const auto work = [&](int thread) {
    try {
      for (std::size_t i = next++; i < chunks.size(); i = next++) {
        for_each_piece(options.splitting, chunks[i],
                       [&](std::string_view piece) { ++counts[thread][piece]; });
      }
    } catch (...) {
      failures[thread] = std::current_exception();
    }
  };
  std::vector<std::thread> threads;
  for (int t = 1; t < num_threads; ++t) threads.emplace_back(work, t);
  work(0);
  for (auto& thread : threads) thread.join();
  for (const auto& failure : failures) {
    if (failure) std::rethrow_exception(failure);
  }
  for (int t = 1; t < num_threads; ++t) {
    for (const auto& [piece, n] : counts[t]) counts[0][piece] += n;
  }
  return std::move(counts[0]);
}

std::uint64_t pair_key(i32 left, i32 right) {
  return static_cast<std::uint64_t>(left) << 32 | static_cast<std::uint32_t>(right);
}

// The distinct pieces as one array of symbols linked within each piece, and the pairs of
// neighbours with their counts. A pair's list of places may hold some where it no longer is.
class PairMerger {
 public:
  PairMerger(const PieceCounts& pieces, TokenizerParts& parts) : parts_(parts) {
    for (const auto& [piece, count] : pieces) add_piece(piece, count);
    for (const auto& [key, pair] : pairs_) candidates_.push({pair.count, key});
  }

  // Merges the best pair; false when no pair occurs twice.
  bool merge_best() {
    while (!candidates_.empty()) {
      const Candidate best = candidates_.top();
      candidates_.pop();
      const i64 count = pairs_.at(best.key).count;
      if (count == best.count) {
        if (count < 2) return false;
        merge(best.key);
        return true;
      }
      if (count < best.count && count > 0) candidates_.push({count, best.key});
    }
    return false;
  }

 private:
  struct Symbol {
    i32 id;  // -1: merged into the one before
    i32 previous;
    i32 next;
    i32 piece;
  };
  struct Pair {
    i64 count = 0;
    std::vector<i32> places;  // of the left symbol
  };
  struct Candidate {
    i64 count;
    std::uint64_t key;
    bool operator<(const Candidate& other) const {  // the greatest is merged first
      return count != other.count ? count < other.count : key > other.key;
    }
  };

  void add_piece(std::string_view piece, i64 count) {
    const std::size_t first = symbols_.size();
    if (piece.size() > std::numeric_limits<i32>::max() - first) {
      throw DataError({.what = "the text has more than 2 GB of distinct words",
                       .hint = "train the tokenizer on less of it"});
    }
    const auto end = static_cast<i32>(first + piece.size());
    for (i32 at = static_cast<i32>(first); const char byte : piece) {
      const bool is_first = at == static_cast<i32>(first);
      symbols_.push_back({kFirstByteId + static_cast<unsigned char>(byte), is_first ? -1 : at - 1,
                          at + 1 < end ? at + 1 : -1, static_cast<i32>(piece_counts_.size())});
      ++at;
    }
    piece_counts_.push_back(count);
    for (auto at = static_cast<i32>(first); at + 1 < end; ++at) change_pair(at, count);
  }

  // Adds to the count of the pair whose left symbol is at `at`; a place where it is new is noted.
  std::uint64_t change_pair(i32 at, i64 by) {
    const std::uint64_t key = pair_key(symbols_[at].id, symbols_[symbols_[at].next].id);
    Pair& pair = pairs_[key];
    pair.count += by;
    if (by > 0) pair.places.push_back(at);
    return key;
  }

  // The result is always a new string of bytes: what a stretch of text merges to does not depend on
  // what surrounds it as long as no merge crosses its borders, so no two pairs make the same token.
  void merge(std::uint64_t key) {
    const auto left = static_cast<i32>(key >> 32);
    const auto right = static_cast<i32>(key & 0xffffffffu);
    const auto result = static_cast<i32>(parts_.token_bytes.size());
    parts_.token_bytes.push_back(parts_.token_bytes[left] + parts_.token_bytes[right]);
    parts_.merges.push_back({left, right, result});
    std::vector<std::uint64_t> grown;
    // The places rise, so that overlapping pairs merge from the left, as in encoding.
    for (const i32 at : std::exchange(pairs_[key].places, {})) {
      const i32 next = symbols_[at].next;
      if (symbols_[at].id != left || next < 0 || symbols_[next].id != right) continue;
      merge_at(at, result, grown);
    }
    QUERN_ASSERT(pairs_[key].count == 0);
    std::sort(grown.begin(), grown.end());
    grown.erase(std::unique(grown.begin(), grown.end()), grown.end());
    for (const std::uint64_t pair : grown) candidates_.push({pairs_[pair].count, pair});
  }

  void merge_at(i32 at, i32 result, std::vector<std::uint64_t>& grown) {
    const i64 count = piece_counts_[symbols_[at].piece];
    const i32 previous = symbols_[at].previous;
    const i32 gone = symbols_[at].next;
    const i32 next = symbols_[gone].next;
    if (previous >= 0) change_pair(previous, -count);
    change_pair(at, -count);
    if (next >= 0) change_pair(gone, -count);
    symbols_[at].id = result;
    symbols_[at].next = next;
    symbols_[gone].id = -1;
    if (next >= 0) symbols_[next].previous = at;
    if (previous >= 0) grown.push_back(change_pair(previous, count));
    if (next >= 0) grown.push_back(change_pair(at, count));
  }

  TokenizerParts& parts_;
  std::vector<Symbol> symbols_;
  std::vector<i64> piece_counts_;
  std::unordered_map<std::uint64_t, Pair> pairs_;
  std::priority_queue<Candidate> candidates_;  // stale ones among them; pairs_ has the counts
};

TokenizerParts bytes_and_specials() {
  TokenizerParts parts;
  for (const std::string_view content : {kBosToken, kEosToken, kPadToken}) {
    parts.added.push_back({static_cast<i32>(parts.token_bytes.size()), std::string(content)});
    parts.token_bytes.emplace_back(content);
  }
  for (int byte = 0; byte < 256; ++byte) {
    parts.token_bytes.emplace_back(1, static_cast<char>(byte));
  }
  return parts;
}

}  // namespace

Tokenizer train_bpe(std::span<const std::string_view> texts, const BpeTrainerOptions& options) {
  if (options.vocab_size < kSmallestVocab || options.vocab_size > kLargestVocab) {
    throw ConfigError(
        {.key = "vocab_size",
         .expected = std::to_string(kSmallestVocab) + " to " + std::to_string(kLargestVocab),
         .actual = std::to_string(options.vocab_size),
         .hint = "the 256 bytes, three special tokens, and what is learnt"});
  }
  if (options.num_threads < 1) {
    throw ConfigError({.key = "num_threads",
                       .expected = "at least 1",
                       .actual = std::to_string(options.num_threads)});
  }
  TokenizerParts parts = bytes_and_specials();
  parts.splitting = options.splitting;
  PairMerger merger(count_pieces(cut_into_chunks(texts, options.max_text_bytes), options), parts);
  while (static_cast<i32>(parts.token_bytes.size()) < options.vocab_size && merger.merge_best()) {
  }
  return Tokenizer(std::move(parts));
}

}  // namespace quern
