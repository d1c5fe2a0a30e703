// SPDX-License-Identifier: MIT
// Encoding and decoding: added tokens are cut out, the rest is split into pieces, and within each
// piece byte pairs merge by rank.
#include "quern/data/tokenizer.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <functional>

#include "quern/autograd/error.h"
#include "quern/data/internal/tokenizer_tables.h"
#include "quern/data/internal/unicode_classes.h"
#include "quern/data/pretokenize.h"
#include "quern/data/sha256.h"

namespace quern {
Tokenizer::Tokenizer(TokenizerParts parts, const std::string& file)
    : tables_(std::make_shared<const internal::TokenizerTables>(std::move(parts), file)) {}

std::vector<i32> Tokenizer::encode(std::string_view text, AddedTokens mode) const {
  std::vector<i32> ids;
  Encoder(*this, static_cast<int>(std::min<std::size_t>(text.size() / 8, 1 << 16)))
      .encode(text, mode, ids);
  return ids;
}

std::string Tokenizer::decode(std::span<const i32> ids) const {
  std::string text;
  for (const i32 id : ids) text += token_bytes(id);
  return text;
}

i32 Tokenizer::vocab_size() const { return static_cast<i32>(parts().token_bytes.size()); }

const std::string& Tokenizer::token_bytes(i32 id) const {
  if (id < 0 || id >= vocab_size()) {
    throw DataError({.what = "token id " + std::to_string(id) + " is not in the vocabulary",
                     .expected = "0 to " + std::to_string(vocab_size() - 1)});
  }
  return parts().token_bytes[id];
}

std::optional<i32> Tokenizer::special_id(std::string_view content) const {
  const auto* token = tables_->added.find(content);
  if (token == nullptr) token = tables_->normalized_added.find(content);
  return token == nullptr ? std::nullopt : std::optional<i32>(token->id);
}

std::string Tokenizer::hash() const { return sha256_hex(to_json()); }

const TokenizerParts& Tokenizer::parts() const { return tables_->parts; }

// One cache line. Longer words, and those of more tokens, are rare enough to merge each time.
struct alignas(64) Encoder::CachedWord {
  static constexpr std::size_t kMaxBytes = 30;
  static constexpr std::size_t kMaxIds = 8;
  std::uint8_t bytes = 0;  // 0: an empty place
  std::uint8_t count = 0;
  char text[kMaxBytes];
  i32 ids[kMaxIds];
};

Encoder::Encoder(const Tokenizer& tokenizer, int cache_words)
    : tables_(tokenizer.tables_),
      cache_(std::bit_ceil(static_cast<std::size_t>(std::max(cache_words, 1)))) {}
Encoder::~Encoder() = default;
Encoder::Encoder(Encoder&&) noexcept = default;
Encoder& Encoder::operator=(Encoder&&) noexcept = default;

namespace {

// Cuts the matcher's tokens out of the text, appends their ids and calls plain(stretch) for each
// stretch between, as Hugging Face does: from the left, the longest at each place.
template <class F>
void cut_out(const internal::AddedMatcher& matcher, std::string_view text, std::vector<i32>& ids,
             F&& plain) {
  std::size_t rest = 0;  // where the stretch after the last token begins
  for (std::size_t at = 0; at < text.size() && !matcher.empty();) {
    const auto* token = matcher.longest_prefix(text.substr(at));
    if (token == nullptr) {
      ++at;
      continue;
    }
    std::size_t begin = at;
    at += token->content.size();
    std::size_t end = at;
    if (token->lstrip && begin > rest) {
      begin = rest + internal::begin_of_trailing_space(text.substr(rest, begin - rest));
    }
    if (token->rstrip) end += internal::end_of_leading_space(text.substr(end));
    if (rest < begin) plain(text.substr(rest, begin - rest));
    ids.push_back(token->id);
    rest = end;
  }
  if (rest < text.size()) plain(text.substr(rest));
}

}  // namespace

void Encoder::encode(std::string_view text, AddedTokens mode, std::vector<i32>& ids) {
  if (mode == AddedTokens::kIgnore) return encode_plain(text, ids);
  cut_out(tables_->added, text, ids, [&](std::string_view stretch) {
    cut_out(tables_->normalized_added, stretch, ids,
            [&](std::string_view plain) { encode_plain(plain, ids); });
  });
}

void Encoder::encode_plain(std::string_view text, std::vector<i32>& ids) {
  for_each_piece(tables_->parts.splitting, text, [&](std::string_view piece) {
    if (tables_->lacks_byte_of(piece)) {
      const std::string replaced = tables_->with_bytes_replaced(piece);
      return internal::encode_long_piece(*tables_, replaced, ids);
    }
    encode_piece(piece, ids);
  });
}

void Encoder::encode_piece(std::string_view piece, std::vector<i32>& ids) {
  if (piece.size() > CachedWord::kMaxBytes)
    return internal::encode_long_piece(*tables_, piece, ids);
  const std::size_t hash = std::hash<std::string_view>()(piece);
  CachedWord& word = cache_[hash & (cache_.size() - 1)];
  if (word.bytes == piece.size() && std::memcmp(word.text, piece.data(), piece.size()) == 0) {
    ids.insert(ids.end(), word.ids, word.ids + word.count);
    return;
  }
  const std::size_t before = ids.size();
  internal::encode_short_piece(*tables_, piece, ids);
  const std::size_t count = ids.size() - before;
  if (count > CachedWord::kMaxIds) return;
  word.bytes = static_cast<std::uint8_t>(piece.size());
  word.count = static_cast<std::uint8_t>(count);
  std::copy(piece.begin(), piece.end(), word.text);
  std::copy(ids.end() - static_cast<std::ptrdiff_t>(count), ids.end(), word.ids);
}

}  // namespace quern
