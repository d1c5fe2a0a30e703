// SPDX-License-Identifier: MIT
#include "quern/data/token_file.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <string_view>

#include "quern/autograd/error.h"
#include "quern/data/chat_template.h"
#include "quern/data/hdf5_file.h"

namespace quern {
namespace {

constexpr char kFormat[] = "quern_tokens";
constexpr i64 kVersion = 1, kMaskedVersion = 2;
constexpr char kTrained[] = "trained_ranges";
constexpr char kTemplate[] = "chat_template";
constexpr i32 kNarrowVocabulary = 1 << 16;  // ids of a vocabulary of this size fit into u16

// Documents that cover the tokens without gap, from sources that exist. Throws DataError.
void check_documents(const std::string& file, std::span<const i64> offsets,
                     std::span<const i32> source, i64 tokens, size_t sources) {
  const auto refuse = [&file](const char* key, const std::string& what) {
    throw DataError({.file = file, .key = key, .what = what});
  };
  if (source.empty()) refuse("document_source", "there are no documents");
  if (offsets.size() != source.size() + 1 || offsets.front() != 0 || offsets.back() != tokens) {
    refuse("document_offsets", "the documents do not cover the tokens");
  }
  for (size_t i = 0; i < source.size(); ++i) {
    if (offsets[i] >= offsets[i + 1]) {
      refuse("document_offsets", "document " + std::to_string(i) + " has no tokens");
    }
    if (source[i] < 0 || size_t(source[i]) >= sources) {
      refuse("document_source", "document " + std::to_string(i) + " has no source");
    }
  }
}

template <class T>
void check_tokens(const std::string& file, const std::vector<T>& tokens, i32 vocab_size) {
  const auto bad = std::ranges::find_if(
      tokens, [vocab_size](T token) { return token < T(0) || i32(token) >= vocab_size; });
  if (bad == tokens.end()) return;
  throw DataError({.file = file,
                   .key = "tokens",
                   .what = "token " + std::to_string(bad - tokens.begin()),
                   .expected = "less than vocab_size " + std::to_string(vocab_size),
                   .actual = std::to_string(*bad)});
}

// Runs of tokens in rising order, apart, none empty; at least one. Throws DataError.
void check_ranges(const std::string& file, std::span<const TokenRange> ranges, i64 tokens) {
  i64 before = 0;
  for (const TokenRange& r : ranges) {
    if (r.begin < before || r.end <= r.begin || r.end > tokens) {
      throw DataError({.file = file,
                       .key = kTrained,
                       .what = "tokens " + std::to_string(r.begin) + " to " + std::to_string(r.end),
                       .expected = "ranges in rising order within the tokens"});
    }
    before = r.end;
  }
  if (ranges.empty()) throw DataError({.file = file, .key = kTrained, .what = "nothing is learnt"});
}

std::vector<TokenRange> read_ranges(const Hdf5Reader& in) {
  const std::vector<i64> bounds = in.read_i64(kTrained);
  if (bounds.size() % 2 != 0) {
    throw DataError(
        {.file = in.path().string(), .key = kTrained, .what = "a range without an end"});
  }
  std::vector<TokenRange> ranges;
  for (size_t i = 0; i < bounds.size(); i += 2) ranges.push_back({bounds[i], bounds[i + 1]});
  return ranges;
}

// libhdf5 may have lost a write without a word. In pieces, since a corpus can be large.
void check_written(const std::filesystem::path& path, const std::vector<i32>& tokens) {
  constexpr size_t kPiece = size_t(1) << 20;
  try {
    const Hdf5Reader in(path);
    for (size_t begin = 0; begin < tokens.size(); begin += kPiece) {
      const size_t count = std::min(kPiece, tokens.size() - begin);
      const auto stored = in.read_range("tokens", i64(begin), i64(count));
      if (std::equal(stored.begin(), stored.end(), tokens.begin() + std::ptrdiff_t(begin)))
        continue;
      throw IoError({.file = path.string(), .what = "does not read back as it was written"});
    }
  } catch (const DataError& error) {
    throw IoError(error.facts());
  }
}

// What begins otherwise was never an HDF5 file, so nothing has damaged it.
void check_hdf5(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  char first[4] = {};
  if (!in.read(first, sizeof first) && !in.eof()) return;  // HDF5's reader says what is wrong
  if (std::string_view(first, sizeof first) == "\x89HDF" || !std::filesystem::exists(path)) return;
  throw DataError({.file = path.string(),
                   .what = "is not a token file",
                   .hint = "`quern prepare` makes them from text"});
}

void check_format(const Hdf5Reader& in) {
  const std::string file = in.path().string();
  if (!in.has_attribute("/", "format") || in.attribute_text("/", "format") != kFormat) {
    throw DataError(
        {.file = file, .what = "is not a token file", .hint = "`quern prepare` makes them"});
  }
  const i64 version = in.attribute_i64("/", "version");
  if (version == (in.has(kTrained) ? kMaskedVersion : kVersion)) return;
  throw DataError({.file = file,
                   .key = "version",
                   .expected = in.has(kTrained) ? std::to_string(kMaskedVersion) + " with a mask"
                                                : std::to_string(kVersion),
                   .actual = std::to_string(version),
                   .hint = "prepare the corpus again"});
}

std::vector<TokenSource> read_sources(const Hdf5Reader& in) {
  const auto names = in.read_texts("source_names");
  const auto bytes = in.read_i64("source_bytes");
  const auto hashes = in.read_texts("source_sha256");
  if (names.size() != bytes.size() || names.size() != hashes.size()) {
    throw DataError({.file = in.path().string(),
                     .key = "source_names",
                     .what = "names, sizes and hashes of sources differ in number"});
  }
  std::vector<TokenSource> sources;
  for (size_t i = 0; i < names.size(); ++i) sources.push_back({names[i], bytes[i], hashes[i]});
  return sources;
}

}  // namespace

void write_token_file(const std::filesystem::path& path, const TokenData& data) {
  const i64 tokens = i64(data.tokens.size());
  check_documents(path.string(), data.document_offsets, data.document_source, tokens,
                  data.sources.size());
  check_tokens(path.string(), data.tokens, data.vocab_size);
  if (data.trained) check_ranges(path.string(), *data.trained, tokens);
  Hdf5Writer out(path);
  out.set_attribute("/", "format", std::string_view(kFormat));
  out.set_attribute("/", "version", data.trained ? kMaskedVersion : kVersion);
  out.set_attribute("/", "tokenizer_sha256", data.tokenizer_sha256);
  out.set_attribute("/", "vocab_size", i64(data.vocab_size));
  if (data.vocab_size <= kNarrowVocabulary) {
    out.write("tokens", std::vector<std::uint16_t>(data.tokens.begin(), data.tokens.end()));
  } else {
    out.write("tokens", data.tokens);
  }
  out.write("document_offsets", data.document_offsets);
  out.write("document_source", data.document_source);
  std::vector<std::string> names, hashes;
  std::vector<i64> bytes;
  for (const auto& source : data.sources) {
    names.push_back(source.name);
    bytes.push_back(source.bytes);
    hashes.push_back(source.sha256);
  }
  out.write("source_names", names);
  out.write("source_bytes", bytes);
  out.write("source_sha256", hashes);
  if (data.trained) {
    std::vector<i64> bounds;
    for (const TokenRange& r : *data.trained) bounds.insert(bounds.end(), {r.begin, r.end});
    out.write(kTrained, bounds);
    if (!data.chat_template.empty()) {
      out.set_attribute("/", kTemplate, std::string_view(data.chat_template));
    }
  }
  out.commit();
  check_written(path, data.tokens);
}

TokenFile::TokenFile(const std::filesystem::path& path, const std::string& tokenizer_sha256)
    : path_(path) {
  try {
    load(tokenizer_sha256);
  } catch (const DataError& error) {
    throw DataError(with_hint(error.facts(), "prepare the corpus again with `quern prepare`"));
  }
}

void TokenFile::load(const std::string& tokenizer_sha256) {
  const std::string file = path_.string();
  check_hdf5(path_);
  const Hdf5Reader in(path_);
  check_format(in);
  tokenizer_sha256_ = in.attribute_text("/", "tokenizer_sha256");
  if (!tokenizer_sha256.empty() && tokenizer_sha256 != tokenizer_sha256_) {
    throw DataError({.file = file,
                     .what = "was made by another tokenizer",
                     .expected = "tokenizer " + tokenizer_sha256.substr(0, 12),
                     .actual = tokenizer_sha256_.substr(0, 12),
                     .hint = "prepare the corpus again, with the tokenizer of this run"});
  }
  const i64 vocab_size = in.attribute_i64("/", "vocab_size");
  vocab_size_ = i32(std::clamp<i64>(vocab_size, 0, std::numeric_limits<i32>::max()));
  const i64 count = in.shape("tokens").numel();
  if (in.type("tokens") == Hdf5Type::u16) {
    tokens_ = in.read_range_u16("tokens", 0, count);
  } else {
    tokens_ = in.read_range("tokens", 0, count);
  }
  document_offsets_ = in.read_i64("document_offsets");
  document_source_ = in.read_range("document_source", 0, in.shape("document_source").numel());
  sources_ = read_sources(in);
  check_documents(file, document_offsets_, document_source_, count, sources_.size());
  std::visit([this](const auto& t) { check_tokens(path_.string(), t, vocab_size_); }, tokens_);
  if (!in.has(kTrained)) return;
  if (in.has_attribute("/", kTemplate)) chat_template_ = in.attribute_text("/", kTemplate);
  if (find_chat_format(chat_template_) == nullptr) {
    throw DataError({.file = file,
                     .key = kTemplate,
                     .expected = chat_format_names(),
                     .actual = "'" + chat_template_.substr(0, 80) + "'"});
  }
  const std::vector<TokenRange> ranges = read_ranges(in);
  check_ranges(file, ranges, count);
  trained_.assign(size_t(count), false);
  for (const TokenRange& r : ranges) {
    std::fill(trained_.begin() + r.begin, trained_.begin() + r.end, true);
  }
}

i64 TokenFile::document_at(i64 token) const {
  QUERN_ASSERT(token >= 0 && token < num_tokens());
  return std::ranges::upper_bound(document_offsets_, token) - document_offsets_.begin() - 1;
}

void TokenFile::read(i64 begin, std::span<i32> out) const {
  QUERN_ASSERT(begin >= 0 && begin + i64(out.size()) <= num_tokens());
  std::visit(
      [&](const auto& tokens) { std::copy_n(tokens.begin() + begin, out.size(), out.begin()); },
      tokens_);
}

}  // namespace quern
