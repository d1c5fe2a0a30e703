// SPDX-License-Identifier: MIT
#include "quern/data/prepare.h"

#include <algorithm>
#include <cmath>
#include <exception>
#include <numeric>
#include <utility>

#include "quern/autograd/error.h"
#include "quern/autograd/kernels/parallel.h"
#include "quern/autograd/random.h"
#include "quern/data/atomic_file.h"
#include "quern/data/bpe_trainer.h"
#include "quern/data/corpus.h"
#include "quern/data/internal/staging.h"
#include "quern/data/manifest.h"
#include "quern/data/sha256.h"
#include "quern/data/token_file.h"
#include "quern/data/tokenizer.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

// What a prepared corpus may consist of, in the order in which single files are replaced.
const std::vector<std::string> kFiles = {"tokenizer.json", "train.h5", "validation.h5",
                                         kManifestName};
constexpr size_t kEncodeBytes = size_t(1) << 20;  // text that one task encodes, at least

void check(const PrepareOptions& options) {
  if (options.train.empty()) {
    throw ConfigError({.what = "no training text is given", .hint = "name it with --train"});
  }
  const double fraction = options.validation_fraction;
  if (!(fraction >= 0 && fraction < 1)) {
    throw ConfigError({.key = "validation_fraction",
                       .expected = "at least 0 and less than 1",
                       .actual = std::to_string(fraction),
                       .hint = "as in 0.05"});
  }
  if (options.split_by_position && fraction == 0) {
    throw ConfigError({.key = "split_by_position",
                       .what = "there is nothing to split",
                       .hint = "give --validation-fraction as well"});
  }
  if (fraction > 0 && !options.validation.empty()) {
    throw ConfigError({.key = "validation_fraction",
                       .what = "validation sources are named already",
                       .hint = "choose one of the two"});
  }
  for (const auto& path : options.validation) {
    const auto same = [&path](const fs::path& other) {
      std::error_code ignored;  // a missing path is found when it is read
      return fs::equivalent(path, other, ignored);
    };
    if (std::ranges::any_of(options.train, same)) {
      throw ConfigError({.file = path.string(),
                         .what = "is in both training and validation",
                         .hint = "leave it out of one, or use --validation-fraction"});
    }
  }
}

// Takes the documents chosen by hash out of `train`.
Corpus split_by_document(Corpus& train, double fraction, std::uint64_t seed) {
  const size_t n = train.documents.size();
  if (n < 2) {
    throw DataError({.file = train.sources.size() == 1 ? train.sources[0] : "",
                     .what = "a single document cannot be split by document",
                     .hint = "add --split-by-position"});
  }
  const Random random(seed, "validation split");
  std::vector<size_t> order(n);
  std::iota(order.begin(), order.end(), size_t(0));
  std::ranges::sort(order, {}, [&](size_t i) { return std::pair(random.bits(i), i); });
  const auto held_out = size_t(std::clamp(std::llround(fraction * double(n)), 1ll, i64(n) - 1ll));
  std::vector<bool> chosen(n);
  for (size_t i = 0; i < held_out; ++i) chosen[order[i]] = true;

  Corpus validation{.sources = train.sources};
  std::vector<Document> rest;
  for (size_t i = 0; i < n; ++i) {
    (chosen[i] ? validation.documents : rest).push_back(std::move(train.documents[i]));
  }
  train.documents = std::move(rest);
  return validation;
}

// Cuts the text, and returns what comes after `bytes` bytes, or a little earlier so that no UTF-8
// character is torn.
std::string cut(std::string& text, size_t bytes) {
  const auto continues = [&text](size_t i) { return (text[i] & 0xc0) == 0x80; };
  for (int i = 0; i < 3 && bytes > 0 && bytes < text.size() && continues(bytes); ++i) --bytes;
  std::string rest = text.substr(bytes);
  text.resize(bytes);
  return rest;
}

// Takes the end of each file out of `train`.
Corpus split_by_position(Corpus& train, double fraction) {
  Corpus validation{.sources = train.sources};
  std::vector<Document> rest;
  auto& documents = train.documents;
  for (size_t first = 0, last = 0; first < documents.size(); first = last) {
    size_t bytes = 0;
    for (; last < documents.size() && documents[last].file == documents[first].file; ++last) {
      bytes += documents[last].text.size();
    }
    auto keep = size_t(std::floor((1 - fraction) * double(bytes)));
    for (size_t i = first; i < last; ++i) {
      Document& head = documents[i];
      const size_t size = head.text.size();
      Document tail{
          .text = cut(head.text, std::min(keep, size)), .source = head.source, .file = head.file};
      keep -= std::min(keep, size);
      if (!head.text.empty()) rest.push_back(std::move(head));
      if (!tail.text.empty()) validation.documents.push_back(std::move(tail));
    }
  }
  documents = std::move(rest);
  return validation;
}

Tokenizer make_tokenizer(const PrepareOptions& options, const Corpus& train) {
  if (options.tokenizer) return Tokenizer::load(*options.tokenizer);
  std::vector<std::string_view> texts;
  for (const auto& document : train.documents) texts.push_back(document.text);
  return train_bpe(texts, {.vocab_size = options.vocab_size,
                           .splitting = options.splitting,
                           .num_threads = num_threads()});
}

// The ids of each document, each ended by <|eos|> if there is one. Runs of documents are shared out
// among threads.
std::vector<std::vector<i32>> encode_all(const Tokenizer& tokenizer,
                                         const std::vector<Document>& documents) {
  std::vector<size_t> bounds = {0};  // of the runs
  size_t bytes = 0;
  for (size_t i = 0; i < documents.size(); ++i) {
    bytes += documents[i].text.size();
    if (bytes < kEncodeBytes && i + 1 < documents.size()) continue;
    bounds.push_back(i + 1);
    bytes = 0;
  }
  const auto eos = tokenizer.special_id(kEosToken);
  std::vector<std::vector<i32>> ids(documents.size());
  std::vector<std::exception_ptr> failures(bounds.size());
  parallel_for(i64(bounds.size()) - 1, [&](i64 run) {
    try {
      Encoder encoder(tokenizer);
      for (size_t i = bounds[size_t(run)]; i < bounds[size_t(run) + 1]; ++i) {
        encoder.encode(documents[i].text, AddedTokens::kIgnore, ids[i]);
        if (eos) ids[i].push_back(*eos);
      }
    } catch (...) {
      failures[size_t(run)] = std::current_exception();
    }
  });
  for (const auto& failure : failures) {
    if (failure) std::rethrow_exception(failure);
  }
  return ids;
}

// Encodes and writes one part; sources that have no document in it are left out.
std::vector<PreparedSource> write_part(const fs::path& path, const Corpus& corpus,
                                       const Tokenizer& tokenizer) {
  TokenData data{.tokenizer_sha256 = tokenizer.hash(), .vocab_size = tokenizer.vocab_size()};
  std::vector<PreparedSource> report;
  Sha256 hash;
  const auto ids = encode_all(tokenizer, corpus.documents);
  for (size_t i = 0; i < ids.size(); ++i) {
    const Document& document = corpus.documents[i];
    const bool first = i == 0 || corpus.documents[i - 1].source != document.source;
    if (first) {
      if (i > 0) data.sources.back().sha256 = std::exchange(hash, Sha256()).digest();
      data.sources.push_back({.name = corpus.sources[size_t(document.source)]});
      report.push_back({.name = data.sources.back().name});
    }
    hash.update(document.text);
    data.sources.back().bytes += i64(document.text.size());
    data.tokens.insert(data.tokens.end(), ids[i].begin(), ids[i].end());
    data.document_offsets.push_back(i64(data.tokens.size()));
    data.document_source.push_back(i32(data.sources.size()) - 1);
    report.back().documents += 1;
    report.back().bytes += i64(document.text.size());
    report.back().tokens += i64(ids[i].size());
  }
  data.sources.back().sha256 = hash.digest();
  write_token_file(path, data);
  return report;
}

// What the disk gives back is what was hashed.
void check_written(const fs::path& folder, const std::vector<std::string>& names) {
  for (const std::string& name : names) drop_from_cache(folder / name);
  try {
    verify_folder(folder);
  } catch (const IntegrityError& error) {
    throw IoError(error.facts());
  }
}

}  // namespace

PrepareReport prepare(const PrepareOptions& options) {
  check(options);
  Corpus train = read_corpus(options.train, options.corpus);
  Corpus validation = read_corpus(options.validation, options.corpus);
  PrepareReport report{
      .invalid_utf8_bytes = train.invalid_utf8_bytes + validation.invalid_utf8_bytes,
      .invalid_utf8_files = train.invalid_utf8_files + validation.invalid_utf8_files,
      .first_invalid_utf8 = train.first_invalid_utf8.empty() ? validation.first_invalid_utf8
                                                             : train.first_invalid_utf8};
  if (options.validation_fraction > 0) {
    validation = options.split_by_position
                     ? split_by_position(train, options.validation_fraction)
                     : split_by_document(train, options.validation_fraction, options.seed);
  }
  if (train.documents.empty()) {
    throw DataError({.key = "validation_fraction",
                     .what = "no text is left to train on",
                     .hint = "choose a smaller fraction, or give more text"});
  }
  const Tokenizer tokenizer = make_tokenizer(options, train);
  report.vocab_size = tokenizer.vocab_size();
  report.tokenizer_sha256 = tokenizer.hash();

  Staging staging(options.out, kFiles);
  const fs::path& out = staging.path();
  tokenizer.save(out / "tokenizer.json");
  report.train = write_part(out / "train.h5", train, tokenizer);
  std::vector<std::string> written = {"tokenizer.json", "train.h5"};
  if (!validation.documents.empty()) {
    report.validation = write_part(out / "validation.h5", validation, tokenizer);
    written.push_back("validation.h5");
  }
  write_manifest(out, hash_files(out, written));
  check_written(out, written);
  staging.publish();
  return report;
}

}  // namespace quern
