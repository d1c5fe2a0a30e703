// SPDX-License-Identifier: MIT
// report.html: one page that shows a run. It needs no other file, no network and no script. Each
// panel has an id, by which tests find it.
#pragma once

#include <array>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "quern/recipes/metrics.h"

namespace quern {

struct ReportInput {
  using Rows = std::vector<std::pair<std::string, std::string>>;  // what, value

  std::string title;
  RunHistory history;
  i64 total_steps = 0;  // 0: unknown
  bool finished = false;
  std::string recipe_text;  // resolved
  struct Difference {
    std::string field, usual, here;  // empty: not set
  };
  std::vector<Difference> differences;  // of the recipe, from the defaults
  Rows model;                           // parameters by kind, FLOPs per token, ...
  Rows environment;                     // processor, threads, kernels, versions, ...
  std::vector<std::array<std::string, 3>> before_after;  // what, and its two values
  std::optional<CompressorBaselines> compressors;        // of the validation text
  std::string reproduce_command;
  std::string sample_command;
  std::string resume_command;
};

// The page. Any bytes may stand in the texts; series are thinned and texts cut, so that it stays
// below two megabytes however long the run was.
std::string report_html(const ReportInput& input);

// Writes it, at once or not at all. Throws IoError.
void write_report(const std::filesystem::path& path, const ReportInput& input);

}  // namespace quern
