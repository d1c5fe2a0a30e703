// SPDX-License-Identifier: MIT
// `quern probe-experts`.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "quern/recipes/evaluate.h"

namespace quern {

struct ProbeExpertsCommand {
  std::string model, out;
  std::vector<std::string> files, against;
  EvaluateOptions options{.sequence_length = 0, .max_tokens = i64(1) << 17, .before_batch = {}};
  i64 threads = 0;
  bool json = false;

  void define(CLI::App& app);
  void run();
};

}  // namespace quern
