// SPDX-License-Identifier: MIT
// Text to token ids and back: byte-level BPE as tokenizer.json files have it.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quern/autograd/kernels/types.h"
#include "quern/data/pretokenize.h"

namespace quern {

inline constexpr std::string_view kBosToken = "<|bos|>";
inline constexpr std::string_view kEosToken = "<|eos|>";
inline constexpr std::string_view kPadToken = "<|pad|>";

// What a tokenizer consists of. Each byte but those that occur in no UTF-8 (c0, c1, f5 to ff) has a
// token; one of those without a token is taken for U+FFFD.
struct TokenizerParts {
  struct Added {
    i32 id = 0;
    std::string content;
    bool special = true;      // a control token, which no merge may produce
    bool lstrip = false;      // takes the white space before it along
    bool rstrip = false;      // ... and after it
    bool normalized = false;  // looked for only between the tokens that are not
  };
  struct Merge {
    i32 left = 0;
    i32 right = 0;
    i32 result = 0;
  };
  std::vector<std::string> token_bytes;  // by id; empty: the id is not used
  std::vector<Added> added;              // cut out of a text before anything else
  std::vector<Merge> merges;             // by rank
  Splitting splitting = Splitting::kGpt2;
};

// How encoding takes text that spells an added token, "<|eos|>" for example.
enum class AddedTokens {
  kRecognise,  // as the token: prompts
  kIgnore,     // as any other text: a corpus must not be able to end its own documents
};

namespace internal {
struct TokenizerTables;
}

// An immutable value; copies share the tables, and any number of threads may use them.
class Tokenizer {
 public:
  // Throws DataError, naming `file` and the part, when the parts do not fit together.
  explicit Tokenizer(TokenizerParts parts, const std::string& file = "tokenizer");

  // tokenizer.json. Throws DataError that names file and key for what is malformed, and for every
  // normalizer, splitting or model that is not known here.
  static Tokenizer load(const std::filesystem::path& path);
  static Tokenizer from_json(std::string_view text, const std::string& file);
  void save(const std::filesystem::path& path) const;
  std::string to_json() const;  // canonical: equal tokenizers give equal text

  // For many texts, an Encoder is faster.
  std::vector<i32> encode(std::string_view text, AddedTokens mode = AddedTokens::kRecognise) const;
  // The bytes of the tokens one after another. Throws DataError for an id outside the vocabulary.
  std::string decode(std::span<const i32> ids) const;

  i32 vocab_size() const;                        // one more than the largest id
  const std::string& token_bytes(i32 id) const;  // throws DataError as decode() does
  std::optional<i32> special_id(std::string_view content) const;  // of an added token
  std::string hash() const;                                       // SHA-256 of to_json(), hex
  const TokenizerParts& parts() const;

 private:
  friend class Encoder;
  std::shared_ptr<const internal::TokenizerTables> tables_;
};

// Encodes text after text and remembers frequent words between them, in bounded memory. One thread
// at a time uses an encoder; the ids depend on the text alone.
class Encoder {
 public:
  explicit Encoder(const Tokenizer& tokenizer, int cache_words = 1 << 16);
  ~Encoder();
  Encoder(Encoder&&) noexcept;
  Encoder& operator=(Encoder&&) noexcept;

  // Appends the ids of `text` to `ids`.
  void encode(std::string_view text, AddedTokens mode, std::vector<i32>& ids);

 private:
  struct CachedWord;
  void encode_plain(std::string_view text, std::vector<i32>& ids);
  void encode_piece(std::string_view piece, std::vector<i32>& ids);

  std::shared_ptr<const internal::TokenizerTables> tables_;
  std::vector<CachedWord> cache_;  // by hash; the later word replaces the earlier
};

}  // namespace quern
