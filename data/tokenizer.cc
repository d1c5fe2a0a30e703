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

void Encoder::encode(std::string_view text, AddedTokens mode, std::vector<i32>& ids) {
  std::size_t plain = 0;  // where the stretch without added tokens begins
  for (std::size_t at = 0; mode == AddedTokens::kRecognise && at < text.size();) {
    const auto* token = tables_->added.longest_prefix(text.substr(at));
    if (token == nullptr) {
      ++at;
      continue;
    }
    encode_plain(text.substr(plain, at - plain), ids);
    ids.push_back(token->id);
    at += token->content.size();
    plain = at;
  }
  encode_plain(text.substr(plain), ids);
}

void Encoder::encode_plain(std::string_view text, std::vector<i32>& ids) {
  for_each_piece(text, [&](std::string_view piece) {
    if (piece.size() > CachedWord::kMaxBytes) {
      return internal::encode_long_piece(*tables_, piece, ids);
    }
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
  });
}

}  // namespace quern
