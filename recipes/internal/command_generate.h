// SPDX-License-Identifier: MIT
// `quern generate`.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "quern/recipes/generate.h"
#include "quern/recipes/internal/cache_option.h"

namespace quern {

struct GenerateCommand {
  std::string model, prompt_file, tokenizer, dtype = "fp32";
  std::vector<std::string> prompts, adapters;
  GenerateOptions options;
  CacheOption cache;
  i64 threads = 0, batch = 16;
  bool json = false, chat = false;

  void define(CLI::App& app);
  void run();

 private:
  void stream(const Model& model, const Tokenizer& t, const PromptTokens& prompt) const;
  void write_batches(const Model& model, const Tokenizer& t,
                     const std::vector<PromptTokens>& encoded) const;
};

}  // namespace quern
