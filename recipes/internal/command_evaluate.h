// SPDX-License-Identifier: MIT
// `quern evaluate`.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "quern/recipes/evaluate.h"
#include "quern/recipes/internal/cache_option.h"

namespace quern {

struct EvaluateCommand {
  std::string model, tokenizer;
  std::vector<std::string> files, adapters;
  EvaluateOptions options{.sequence_length = 0, .before_batch = {}};
  CacheOption cache;
  i64 threads = 0;
  bool json = false, chat = false;

  void define(CLI::App& app);
  void run();
};

}  // namespace quern
