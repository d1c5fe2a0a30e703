// SPDX-License-Identifier: MIT
// Several runs on one page: their curves on common axes, their last figures, what their recipes and
// machines do not share.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "quern/recipes/recipe.h"
#include "quern/recipes/report.h"

namespace quern {

struct ComparedRun {
  std::string name;
  Recipe recipe;
  ReportInput input;
};

constexpr std::size_t kMaxComparedRuns = 8;  // as many as there are colours

// Reads the runs and gives each a name that tells it from the others. Throws ConfigError when a
// folder holds no run or there are too many, DataError when a log cannot be read.
std::vector<ComparedRun> read_runs(const std::vector<std::filesystem::path>& folders);

// The page; like report_html, it needs nothing else and stays below two megabytes.
std::string comparison_html(const std::vector<ComparedRun>& runs);

}  // namespace quern
