// SPDX-License-Identifier: MIT
// `quern select-experts`.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "quern/recipes/expert_scores.h"

namespace quern {

struct SelectExpertsCommand {
  std::string model, text, scores_file, score = "token", average = "sample", out, scores_out;
  double threshold = 0.2;
  bool shared_experts = false, non_expert_modules = false;
  ScoreOptions options{.sequence_length = 0, .before_batch = {}};

  void define(CLI::App& app);
  void run();

 private:
  ExpertScores scores();
};

}  // namespace quern
