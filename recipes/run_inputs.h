// SPDX-License-Identifier: MIT
// The files a run reads, opened and checked against each other, against the recipe, and against
// those the run began with.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "quern/data/sampler.h"
#include "quern/data/tokenizer.h"
#include "quern/recipes/metrics.h"
#include "quern/recipes/multiple_choice.h"
#include "quern/recipes/recipe.h"

namespace quern {

struct RunInputs {
  std::shared_ptr<const Sampler> sampler;
  std::vector<std::shared_ptr<const TokenFile>> validation;
  std::optional<Tokenizer> tokenizer;
  std::vector<std::pair<std::string, std::vector<Question>>> questions;  // by file
  std::string tokenizer_sha256;
};

// Throws DataError where a file is damaged or does not fit.
RunInputs open_inputs(const Recipe& recipe);

// Of an empty data.chat_template: becomes that of the training files' conversations. Throws
// ConfigError where they are written by another one.
void settle_chat_template(Recipe& recipe, const Sampler& sampler);

// Bits per byte of the first validation file, by which evaluations of a run are compared.
double figure_of_merit(const EvalMetrics& m, const TokenFile& first);

// The files of a recipe by absolute path, so that the run can go on from any folder.
void make_paths_absolute(Recipe& recipe);

// RUN/corpus.sha256: the hashes of the token files trained on, as `sha256sum --check` reads them.
// Throws IoError.
void write_corpus_hashes(const std::filesystem::path& run, const Recipe& recipe);

// Throws ConfigError, which names the entry of the recipe, unless its token files have the bytes of
// those the run began with, wherever they lie now: over other data the run would end elsewhere, and
// nothing would say so. A run without that file, of an older version, passes.
void check_corpus_hashes(const std::filesystem::path& run, const Recipe& recipe);

}  // namespace quern
