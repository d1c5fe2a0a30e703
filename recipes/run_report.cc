// SPDX-License-Identifier: MIT
#include "quern/recipes/run_report.h"

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <utility>

#include "quern/autograd/error.h"
#include "quern/recipes/before_after.h"
#include "quern/recipes/describe.h"
#include "quern/recipes/recipe.h"
#include "quern/recipes/recipe_differences.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

// The path as a shell takes it.
std::string shell_word(const fs::path& path) {
  const std::string text = path.string();
  const bool plain = !text.empty() && std::ranges::all_of(text, [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) ||
           std::string("/._-+").find(c) != std::string::npos;
  });
  if (plain) return text;
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? "'\\''" : std::string(1, c);
  return quoted + "'";
}

std::string value_of(const ReportInput::Rows& rows, const std::string& what) {
  const auto at = std::ranges::find(rows, what, &ReportInput::Rows::value_type::first);
  return at == rows.end() ? "" : at->second;
}

void add_commands(const fs::path& run, ReportInput& input) {
  const std::string kernels = value_of(input.environment, "kernels");
  const std::string folder = shell_word(run);
  input.reproduce_command = (kernels.empty() ? "" : "QUERN_KERNELS=" + kernels + " ") +
                            "quern train " + shell_word(run / "recipe.textproto") + " --run-dir " +
                            shell_word(run.string() + "-again");
  input.sample_command = "quern generate " + folder + " --prompt \"The\"";
  input.resume_command = "quern resume " + folder;
}

}  // namespace

ReportInput report_input_of(const fs::path& run, bool finished) {
  if (!fs::exists(run / "recipe.textproto")) {
    throw ConfigError({.file = run.string(), .what = "no run in this folder"});
  }
  const Recipe recipe = load_recipe((run / "recipe.textproto").string());
  ReportInput input;
  input.title = fs::absolute(run / "").lexically_normal().parent_path().filename().string();
  input.history = read_metrics(run / "metrics.jsonl");
  input.total_steps = recipe.train.steps;
  input.finished = finished;
  input.recipe_text = to_text(recipe);
  for (const FieldDifference& d : differences({Recipe{}, recipe})) {
    input.differences.push_back({d.path, d.values[0], d.values[1]});
  }
  input.before_after = before_after_rows(run);
  input.model = rows_of(describe_model(recipe.model, recipe.data.sequence_length));
  if (!input.history.environments.empty()) {
    input.environment = input.history.environments.back().rows;
  }
  if (!recipe.data.validation.empty()) {
    // A corpus may come with what general-purpose compressors make of its validation text.
    const fs::path tokens = fs::path(recipe.data.validation[0]).parent_path();
    input.compressors = read_compressors(tokens.parent_path() / "compressors.json");
  }
  add_commands(run, input);
  return input;
}

void write_run_report(const fs::path& run, bool finished) {
  write_report(run / "report.html", report_input_of(run, finished));
}

std::string validation_text(const RunHistory& history) {
  if (history.evals.empty()) return "";
  const EvalMetrics &first = history.evals.front(), &last = history.evals.back();
  const bool compare = first.step == 0 && last.step > 0;
  char line[256];
  std::snprintf(line, sizeof line, "validation: %.4f bits per byte", last.bits_per_byte);
  std::string text = line;
  if (compare) {
    std::snprintf(line, sizeof line, ", %.4f before", first.bits_per_byte);
    text += line;
  }
  text += "\n";
  for (std::size_t i = 0; i < last.domains.size(); ++i) {
    const auto& d = last.domains[i];
    std::snprintf(line, sizeof line, "  %-24.100s %.4f", d.name.c_str(), d.bits_per_byte);
    text += line;
    if (compare && i < first.domains.size()) {
      std::snprintf(line, sizeof line, "  %.4f before", first.domains[i].bits_per_byte);
      text += line;
    }
    text += "\n";
  }
  return text;
}

}  // namespace quern
