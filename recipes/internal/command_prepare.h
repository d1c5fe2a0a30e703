// SPDX-License-Identifier: MIT
// `quern prepare`.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "quern/data/prepare.h"

namespace quern {

struct PrepareCommand {
  PrepareOptions options;
  std::vector<std::string> train, validation;
  std::string tokenizer, splitting = "gpt2", out;
  std::string rows, on_error = "stop";
  std::string invalid_utf8 = name_of(CorpusOptions().invalid_utf8);
  bool json = false;

  void define(CLI::App& app);
  void run();
};

}  // namespace quern
