// SPDX-License-Identifier: MIT
// A tokenised corpus: documents one after another, where each came from, and by which tokenizer.
//
// An HDF5 file of
//   tokens            [tokens]         u16 when vocab_size <= 65536, else i32
//   document_offsets  [documents + 1]  i64; document i is [offsets[i], offsets[i + 1]), not empty
//   document_source   [documents]      i32; an index into the sources
//   source_names      [sources]        text; a name stands for a domain in reports
//   source_bytes      [sources]        i64; bytes of text, what bits per byte divide by; where
//                                      there are trained_ranges, of the text in them
//   source_sha256     [sources]        text; of the documents' text, joined
//   trained_ranges    [2 * ranges]     i64; begin and end of each run of tokens that is learnt, in
//                                      rising order; absent: every token is
// and root attributes format = "quern_tokens", version, tokenizer_sha256, vocab_size,
// and, where conversations are written by another template than quern, chat_template. The version
// is 2 where there are trained_ranges, else 1, so that no reader takes prompts for text to learn.
// Where the tokenizer has <|eos|>, every document ends with it, but conversations that were cut.
#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "quern/autograd/kernels/types.h"

namespace quern {

// Tokens [begin, end).
struct TokenRange {
  i64 begin = 0;
  i64 end = 0;
  bool operator==(const TokenRange&) const = default;
};

struct TokenSource {
  std::string name;
  i64 bytes = 0;
  std::string sha256;
};

// What a token file is made from.
struct TokenData {
  std::string tokenizer_sha256;
  i32 vocab_size = 0;
  std::vector<i32> tokens;
  std::vector<i64> document_offsets = {0};
  std::vector<i32> document_source;
  std::vector<TokenSource> sources;
  std::optional<std::vector<TokenRange>> trained;
  std::string chat_template;  // how conversations are written; empty: quern, or there are none
};

// Atomically. Throws DataError when the parts do not fit together, IoError when writing fails.
void write_token_file(const std::filesystem::path& path, const TokenData& data);

// A token file in memory, 2 or 4 bytes a token; constant, so any number of threads may read it.
class TokenFile {
 public:
  // Reads and checks everything. Throws DataError, naming the file and what is wrong with it; also
  // when `tokenizer_sha256` is given and the file was made by another tokenizer.
  explicit TokenFile(const std::filesystem::path& path, const std::string& tokenizer_sha256 = "");

  const std::filesystem::path& path() const { return path_; }
  const std::string& tokenizer_sha256() const { return tokenizer_sha256_; }
  i32 vocab_size() const { return vocab_size_; }
  i64 num_tokens() const { return document_offsets_.back(); }
  i64 num_documents() const { return i64(document_source_.size()); }
  std::span<const i64> document_offsets() const { return document_offsets_; }
  std::span<const i32> document_source() const { return document_source_; }
  const std::vector<TokenSource>& sources() const { return sources_; }

  i64 document_at(i64 token) const;  // the document that the token at this place belongs to
  // Whether only some of the tokens are learnt, as in conversations; and whether this one is.
  bool has_mask() const { return !trained_.empty(); }
  bool is_trained(i64 token) const { return trained_.empty() || trained_[size_t(token)]; }
  // The ChatFormat by which conversations are written.
  const std::string& chat_template() const { return chat_template_; }
  // The tokens from `begin` on, as many as `out` holds; they must exist.
  void read(i64 begin, std::span<i32> out) const;

 private:
  void load(const std::string& tokenizer_sha256);

  std::filesystem::path path_;
  std::string tokenizer_sha256_;
  i32 vocab_size_ = 0;
  std::variant<std::vector<std::uint16_t>, std::vector<i32>> tokens_;
  std::vector<i64> document_offsets_;
  std::vector<i32> document_source_;
  std::vector<TokenSource> sources_;
  std::vector<bool> trained_;  // by token, or empty
  std::string chat_template_ = "quern";
};

}  // namespace quern
