// SPDX-License-Identifier: MIT
#include "quern/data/prepare.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>
#include <utility>

#include "quern/autograd/error.h"
#include "quern/autograd/kernels/parallel.h"
#include "quern/autograd/random.h"
#include "quern/data/atomic_file.h"
#include "quern/data/bpe_trainer.h"
#include "quern/data/corpus.h"
#include "quern/data/internal/encode_corpus.h"
#include "quern/data/internal/staging.h"
#include "quern/data/manifest.h"
#include "quern/data/token_file.h"
#include "quern/data/tokenizer.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

// What a prepared corpus may consist of, in the order in which single files are replaced.
const std::vector<std::string> kFiles = {"tokenizer.json", "train.h5", "validation.h5",
                                         kManifestName};

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
  if (!train.documents[0].turns.empty()) {
    throw ConfigError({.key = "split_by_position",
                       .what = "conversations are not cut",
                       .hint = "leave it out: the fraction is then a choice of rows"});
  }
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

void add_texts(const Document& document, std::vector<std::string_view>& texts) {
  if (document.turns.empty()) texts.push_back(document.text);
  for (const ChatTurn& turn : document.turns) texts.push_back(turn.text);
}

Tokenizer make_tokenizer(const PrepareOptions& options, const Corpus& train) {
  if (options.tokenizer) return Tokenizer::load(*options.tokenizer);
  std::vector<std::string_view> texts;
  for (const auto& document : train.documents) add_texts(document, texts);
  return train_bpe(texts, {.vocab_size = options.vocab_size,
                           .splitting = options.splitting,
                           .num_threads = num_threads()});
}

// Encodes and writes one part; sources that have no document in it are left out.
std::vector<PreparedSource> write_part(const fs::path& path, const Corpus& corpus,
                                       const Tokenizer& tokenizer, const PrepareOptions& options) {
  const i64 max_row_tokens = options.max_row_tokens;
  internal::EncodedCorpus encoded =
      internal::encode_corpus(corpus, tokenizer, max_row_tokens, options.chat_template);
  if (encoded.data.document_source.empty()) {
    throw DataError({.key = "max_row_tokens",
                     .what = "no row of " + path.stem().string() + " has an answer that begins " +
                             "within " + std::to_string(max_row_tokens) + " tokens",
                     .hint = "raise --max-row-tokens"});
  }
  write_token_file(path, encoded.data);
  return std::move(encoded.sources);
}

// Conversations are learnt in part and packed whole, text as it comes: a token file is one or the
// other.
void refuse_a_mixture(const Corpus& train, const Corpus& validation) {
  const Document* first = nullptr;
  for (const Corpus* corpus : {&train, &validation}) {
    for (const Document& document : corpus->documents) {
      if (first == nullptr) first = &document;
      if (document.turns.empty() == first->turns.empty()) continue;
      throw DataError({.file = corpus->sources[size_t(document.source)],
                       .what = document.turns.empty() ? "is text, and what comes before it is "
                                                        "conversations"
                                                      : "is conversations, and what comes before "
                                                        "it is text",
                       .hint = "prepare them apart, with the same --tokenizer; a recipe mixes "
                               "token files"});
    }
  }
}

// The first, the middle and the last conversation as they will be seen.
std::vector<std::string> samples_of(const TokenFile& file, const Tokenizer& tokenizer) {
  std::vector<std::string> samples;
  std::set<i64> shown = {0, file.num_documents() / 2, file.num_documents() - 1};
  for (const i64 document : shown) {
    const i64 begin = file.document_offsets()[size_t(document)];
    std::vector<i32> ids(size_t(file.document_offsets()[size_t(document) + 1] - begin));
    file.read(begin, ids);
    std::string text;
    bool trained = false;
    for (size_t i = 0; i < ids.size(); ++i) {
      const bool now = file.is_trained(begin + i64(i));
      if (now != trained) text += now ? "[[" : "]]";
      trained = now;
      text += tokenizer.decode(std::span(&ids[i], 1));
    }
    samples.push_back(text + (trained ? "]]" : ""));
  }
  return samples;
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
  report.skipped = train.skipped;
  report.skipped.insert(report.skipped.end(), validation.skipped.begin(), validation.skipped.end());
  refuse_a_mixture(train, validation);
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
  report.train = write_part(out / "train.h5", train, tokenizer, options);
  const bool chat = !train.documents[0].turns.empty();
  if (chat) report.samples = samples_of(TokenFile(out / "train.h5"), tokenizer);
  std::vector<std::string> written = {"tokenizer.json", "train.h5"};
  if (!validation.documents.empty()) {
    report.validation = write_part(out / "validation.h5", validation, tokenizer, options);
    written.push_back("validation.h5");
  }
  write_manifest(out, hash_files(out, written));
  check_written(out, written);
  staging.publish();
  return report;
}

}  // namespace quern
