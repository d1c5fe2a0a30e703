// SPDX-License-Identifier: MIT
// Checks that a tokenizer's parts fit together and builds the lookups.
#include "quern/data/internal/tokenizer_tables.h"

#include <algorithm>
#include <bit>

#include "quern/autograd/error.h"
#include "quern/data/internal/json_checks.h"
#include "quern/data/internal/unicode_classes.h"

namespace quern::internal {
namespace {

std::uint64_t pair_key(i32 left, i32 right) {
  return static_cast<std::uint64_t>(left) << 32 | static_cast<std::uint32_t>(right);
}

// Added tokens stand at their ids, each once, and are not empty.
TokenizerParts with_checked_added(TokenizerParts parts, const std::string& file) {
  std::vector<bool> seen(parts.token_bytes.size());
  std::vector<std::string_view> contents;
  for (const auto& added : parts.added) {
    const std::string key = "added_tokens '" + clipped(added.content) + "'";
    if (added.content.empty()) throw DataError({.file = file, .key = key, .what = "is empty"});
    if ((added.lstrip || added.rstrip) &&
        (end_of_leading_space(added.content) > 0 ||
         begin_of_trailing_space(added.content) < added.content.size())) {
      throw DataError({.file = file,
                       .key = key,
                       .what = "lstrip or rstrip with white space at the token's own border"});
    }
    const bool in_range = added.id >= 0 && added.id < static_cast<i32>(seen.size());
    if (!in_range || parts.token_bytes[added.id] != added.content) {
      throw DataError({.file = file, .key = key, .what = "does not stand at its id"});
    }
    if (seen[added.id]) throw DataError({.file = file, .key = key, .what = "is there twice"});
    seen[added.id] = true;
    contents.push_back(added.content);
  }
  std::sort(contents.begin(), contents.end());
  const auto twice = std::adjacent_find(contents.begin(), contents.end());
  if (twice != contents.end()) {
    throw DataError(
        {.file = file, .key = "added_tokens '" + clipped(*twice) + "'", .what = "has two ids"});
  }
  return parts;
}

std::vector<bool> special_ids(const TokenizerParts& parts) {
  std::vector<bool> special(parts.token_bytes.size());
  for (const auto& added : parts.added) special[added.id] = added.special;
  return special;
}

// These are no part of any UTF-8; DeepSeek-LLM's vocabulary does without them.
bool is_never_utf8(std::size_t byte) { return byte == 0xc0 || byte == 0xc1 || byte >= 0xf5; }

// The single bytes have each a token that text may produce, so that any text can be encoded.
std::array<i32, 256> find_bytes(const TokenizerParts& parts, const std::string& file) {
  const std::vector<bool> special = special_ids(parts);
  std::array<i32, 256> ids;
  ids.fill(-1);
  for (std::size_t id = 0; id < parts.token_bytes.size(); ++id) {
    const std::string& bytes = parts.token_bytes[id];
    if (bytes.size() != 1 || special[id]) continue;
    i32& place = ids[static_cast<unsigned char>(bytes[0])];
    if (place >= 0) {
      throw DataError({.file = file, .key = "model.vocab", .what = "a single byte has two ids"});
    }
    place = static_cast<i32>(id);
  }
  for (std::size_t byte = 0; byte < ids.size(); ++byte) {
    if (ids[byte] >= 0 || is_never_utf8(byte)) continue;
    throw DataError({.file = file,
                     .key = "model.vocab",
                     .what = "no token for byte " + std::to_string(byte),
                     .hint = "only byte-level tokenizers can be read"});
  }
  return ids;
}

MergeRanks rank_merges(const TokenizerParts& parts, const std::string& file) {
  const std::vector<bool> special = special_ids(parts);
  const auto usable = [&](i32 id) {
    return id >= 0 && id < static_cast<i32>(special.size()) && !special[id];
  };
  MergeRanks ranks(parts.merges.size());
  for (std::size_t rank = 0; rank < parts.merges.size(); ++rank) {
    const auto& [left, right, result] = parts.merges[rank];
    const std::string key = "model.merges[" + std::to_string(rank) + "]";
    if (!usable(left) || !usable(right) || !usable(result)) {
      throw DataError({.file = file, .key = key, .what = "refers to no ordinary token"});
    }
    if (parts.token_bytes[left] + parts.token_bytes[right] != parts.token_bytes[result]) {
      throw DataError({.file = file, .key = key, .what = "does not give its token's bytes"});
    }
    if (!ranks.insert(left, right, static_cast<i32>(rank))) {
      throw DataError({.file = file, .key = key, .what = "the pair is listed twice"});
    }
  }
  return ranks;
}

bool each_after_its_parts(const TokenizerParts& parts) {
  std::vector<bool> is_part(parts.token_bytes.size());  // of a merge so far
  for (const auto& merge : parts.merges) {
    if (is_part[merge.result]) return false;
    is_part[merge.left] = is_part[merge.right] = true;
  }
  return true;
}

}  // namespace

MergeRanks::MergeRanks(std::size_t merges) : slots_(std::bit_ceil(merges + merges / 2 + 2)) {
  shift_ = 64 - std::countr_zero(slots_.size());
}

std::size_t MergeRanks::slot_of(std::uint64_t pair) const {
  std::size_t at = (pair * 0x9e3779b97f4a7c15u) >> shift_;  // Fibonacci hashing: the upper bits
  while (slots_[at].rank != kNoRank && slots_[at].pair != pair) {
    at = (at + 1) & (slots_.size() - 1);
  }
  return at;
}

bool MergeRanks::insert(i32 left, i32 right, i32 rank) {
  const std::uint64_t pair = pair_key(left, right);
  Slot& slot = slots_[slot_of(pair)];
  if (slot.rank != kNoRank) return false;
  slot = {pair, rank};
  return true;
}

i32 MergeRanks::find(i32 left, i32 right) const {
  return slots_[slot_of(pair_key(left, right))].rank;
}

AddedMatcher::AddedMatcher(const std::vector<TokenizerParts::Added>& added, bool normalized) {
  for (const auto& token : added) {
    if (token.normalized != normalized) continue;
    by_content_.push_back(&token);
    first_bytes_.set(static_cast<unsigned char>(token.content[0]));
  }
  std::sort(by_content_.begin(), by_content_.end(),
            [](const auto* a, const auto* b) { return a->content < b->content; });
}

// Narrows the sorted range byte by byte to the contents that start as the text does; the first of
// a range is the shortest, so it is complete when its length is the number of bytes compared.
const TokenizerParts::Added* AddedMatcher::longest_prefix(std::string_view text) const {
  const TokenizerParts::Added* longest = nullptr;
  if (text.empty() || !first_bytes_[static_cast<unsigned char>(text[0])]) return longest;
  auto first = by_content_.begin();
  auto last = by_content_.end();
  for (std::size_t n = 0; n < text.size(); ++n) {
    const auto byte_at = [n](const std::string& s) {  // the shorter string sorts first
      return n < s.size() ? static_cast<unsigned char>(s[n]) : -1;
    };
    const int wanted = static_cast<unsigned char>(text[n]);
    first = std::partition_point(first, last,
                                 [&](const auto* a) { return byte_at(a->content) < wanted; });
    last = std::partition_point(first, last,
                                [&](const auto* a) { return byte_at(a->content) == wanted; });
    if (first == last) break;
    if ((*first)->content.size() == n + 1) longest = *first;
  }
  return longest;
}

const TokenizerParts::Added* AddedMatcher::find(std::string_view content) const {
  const auto at = std::lower_bound(by_content_.begin(), by_content_.end(), content,
                                   [](const auto* a, auto text) { return a->content < text; });
  return at != by_content_.end() && (*at)->content == content ? *at : nullptr;
}

TokenizerTables::TokenizerTables(TokenizerParts unchecked, const std::string& file)
    : parts(with_checked_added(std::move(unchecked), file)),
      byte_ids(find_bytes(parts, file)),
      lacks_bytes(std::ranges::count(byte_ids, -1) > 0),
      ranks(rank_merges(parts, file)),
      merges_rise(each_after_its_parts(parts)),
      added(parts.added, false),
      normalized_added(parts.added, true) {}

bool TokenizerTables::lacks_byte_of(std::string_view piece) const {
  const auto lacks = [this](char c) { return byte_ids[static_cast<unsigned char>(c)] < 0; };
  return lacks_bytes && std::ranges::any_of(piece, lacks);
}

std::string TokenizerTables::with_bytes_replaced(std::string_view piece) const {
  std::string text;
  for (const char c : piece) {
    if (byte_ids[static_cast<unsigned char>(c)] < 0) {
      text += "\xef\xbf\xbd";
    } else {
      text += c;
    }
  }
  return text;
}

}  // namespace quern::internal
