// SPDX-License-Identifier: MIT
// From text to what training reads: a tokenizer, a training part and a validation part.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "quern/autograd/kernels/types.h"
#include "quern/data/corpus.h"
#include "quern/data/pretokenize.h"

namespace quern {

struct PrepareOptions {
  std::vector<std::filesystem::path> train;       // sources, as read_corpus() takes them
  std::vector<std::filesystem::path> validation;  // sources held out as wholes
  double validation_fraction = 0;                 // or: this part of the training sources
  bool split_by_position =
      false;  // the fraction is the end of each file, not a choice of documents
  i32 vocab_size = 8192;
  Splitting splitting = Splitting::kGpt2;          // of the tokenizer to be trained
  std::optional<std::filesystem::path> tokenizer;  // instead of training one
  std::filesystem::path out;                       // a folder
  std::uint64_t seed = 0;                          // chooses the documents
  CorpusOptions corpus;                            // how text is read
  std::string chat_template;  // of ChatFormat, by which conversations are written; empty: quern
  i64 max_row_tokens = 0;     // of a conversation, which keeps the first ones; 0: any number
};

struct PreparedSource {
  std::string name;
  i64 documents = 0;
  i64 bytes = 0;
  i64 tokens = 0;
  // Of conversations, whose bytes are those that are learnt:
  i64 trained_tokens = 0;
  i64 truncated = 0;  // documents cut to max_row_tokens
  i64 dropped = 0;    // rows left out, having nothing to learn within max_row_tokens
  double bytes_per_token() const { return double(bytes) / double(tokens); }
};

struct PrepareReport {
  std::vector<PreparedSource> train;
  std::vector<PreparedSource> validation;  // empty without a validation part
  i32 vocab_size = 0;
  std::string tokenizer_sha256;
  i64 invalid_utf8_bytes = 0;  // kept or replaced, as the options say
  i64 invalid_utf8_files = 0;
  std::string first_invalid_utf8;  // file:line:column
  std::vector<SkippedRows> skipped;
  // Three conversations of the training part, what is learnt between [[ and ]].
  std::vector<std::string> samples;
};

// Writes tokenizer.json, train.h5 and, if there is a validation part, validation.h5 into `out`, and
// their MANIFEST. The
// tokenizer is trained on the training part alone. By document, the rounded fraction of them (at
// least one) with the smallest hashes of (seed, number) is held out; by position, a file of n bytes
// is cut at floor((1 - fraction) * n), moved back to the beginning of a UTF-8 character. The result
// depends on options and text only, not on threads. Throws ConfigError for options that do not go
// together, DataError for sources that cannot be used, IoError when writing fails.
PrepareReport prepare(const PrepareOptions& options);

}  // namespace quern
