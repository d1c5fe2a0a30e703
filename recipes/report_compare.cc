// SPDX-License-Identifier: MIT
#include "quern/recipes/report_compare.h"

#include <algorithm>
#include <cmath>

#include "quern/autograd/error.h"
#include "quern/recipes/internal/html.h"
#include "quern/recipes/internal/report_parts.h"
#include "quern/recipes/internal/svg_plot.h"
#include "quern/recipes/internal/units.h"
#include "quern/recipes/recipe_differences.h"
#include "quern/recipes/run_report.h"

namespace quern {
namespace {

namespace fs = std::filesystem;
using namespace internal;

constexpr std::size_t kMaxNameBytes = 60, kMaxCellBytes = 300, kMaxRows = 300;

std::string cell_text(const std::string& text) {
  return html_escape(shortened(text, kMaxCellBytes));
}

// ---- curves ----

// One line for each run; points_of(history) gives its points.
template <class PointsOf>
std::string overlay(const std::string& id, const std::string& title,
                    const std::vector<ComparedRun>& runs, Plot plot, PointsOf&& points_of) {
  for (std::size_t i = 0; i < runs.size(); ++i) {
    plot.lines.push_back({.name = runs[i].name,
                          .style = "c" + std::to_string(i),
                          .points = points_of(runs[i].input.history)});
  }
  return panel(id, title, "", plot);
}

std::vector<Point> bits_of(const RunHistory& history) {
  std::vector<Point> points;
  for (const EvalMetrics& e : history.evals) points.push_back({double(e.step), e.bits_per_byte});
  return points;
}

template <class Member>
auto smooth(Member member) {
  return [member](const RunHistory& h) { return smoothed(series(h.steps, member)); };
}

std::string curves(const std::vector<ComparedRun>& runs) {
  std::string html = "<section class=\"charts\">\n";
  html +=
      overlay("loss", "Loss, nats per token, running mean", runs, {}, smooth(&StepMetrics::loss));
  html += overlay("validation", "Validation, bits per byte", runs, {}, bits_of);
  html += overlay("gradient-norm", "Gradient norm, running mean", runs, {.log_y = true},
                  smooth(&StepMetrics::grad_norm));
  html += overlay("learning-rate", "Learning rate", runs, {.decimals = -1, .from_zero = true},
                  [](const RunHistory& h) { return series(h.steps, &StepMetrics::lr); });
  html += overlay("throughput", "Tokens per second, running mean", runs,
                  {.decimals = -1, .from_zero = true}, smooth(&StepMetrics::tokens_per_s));
  html += overlay("expert-balance", "Busiest expert over mean, running mean", runs,
                  {.decimals = 2, .from_zero = true}, smooth(&StepMetrics::load_max_over_mean));
  return html + "</section>\n";
}

// ---- tables ----

double best_bits(const RunHistory& history) {
  double best = NAN;
  for (const EvalMetrics& e : history.evals) best = std::fmin(best, e.bits_per_byte);
  return best;
}

double middle_speed(const RunHistory& history) {
  std::vector<double> speeds;
  for (const StepMetrics& step : history.steps) {
    if (std::isfinite(step.tokens_per_s)) speeds.push_back(step.tokens_per_s);
  }
  if (speeds.empty()) return NAN;
  std::ranges::nth_element(speeds, speeds.begin() + std::ptrdiff_t(speeds.size() / 2));
  return speeds[speeds.size() / 2];
}

std::string parameters_of(const ReportInput& input) {
  const auto row =
      std::ranges::find(input.model, "parameters", &ReportInput::Rows::value_type::first);
  return row == input.model.end() ? "-" : row->second;
}

double last_bits(const RunHistory& history) {
  return history.evals.empty() ? NAN : history.evals.back().bits_per_byte;
}

// Training until an evaluation was as good as this, in seconds; NaN where none was.
double seconds_to_reach(const RunHistory& history, double bits_per_byte) {
  for (const EvalMetrics& e : history.evals) {
    if (!(e.bits_per_byte <= bits_per_byte)) continue;
    const auto at = std::ranges::lower_bound(history.steps, e.step, {}, &StepMetrics::step);
    if (at != history.steps.end()) return at->elapsed_s;
  }
  return NAN;
}

// Of the second half of the steps.
struct Balance {
  double max_violation = NAN;  // the busiest expert's load over the mean, less 1: the mean of it
  i64 longest_dead = 0;        // steps in a row in each of which some expert had no token
};

Balance balance_of(const RunHistory& history) {
  Balance out;
  if (history.steps.empty() || history.steps.back().load_max_over_mean == 0) return out;
  double sum = 0, count = 0;
  const i64 half = history.steps.back().step / 2;
  i64 alive = half;  // the last step in which every expert had a token
  for (const StepMetrics& s : history.steps) {
    if (s.step <= half) continue;
    sum += s.load_max_over_mean - 1;
    count += 1;
    if (s.dead_experts == 0) alive = s.step;
    out.longest_dead = std::max(out.longest_dead, s.step - alive);
  }
  out.max_violation = sum / count;
  return out;
}

// `first` is the run whose last bits per byte the others are timed against.
std::vector<std::string> figures_of(const ComparedRun& run, const ComparedRun& first) {
  const RunHistory& history = run.input.history;
  const bool any = !history.steps.empty();
  const StepMetrics last = any ? history.steps.back() : StepMetrics{};
  const double loss =
      any ? smoothed(series(history.steps, &StepMetrics::loss)).back().y : std::nan("");
  const Balance balance = balance_of(history);
  return {run.input.finished ? "finished" : "in progress",
          parameters_of(run.input),
          count_text(last.step),
          short_text(double(last.tokens_seen)),
          fixed_text(loss, 3),
          history.evals.empty() ? "-" : fixed_text(history.evals.back().bits_per_byte, 3),
          fixed_text(best_bits(history), 3),
          short_text(flops_per_token(run.recipe.model, run.recipe.data.sequence_length) *
                     double(last.tokens_seen)),
          short_text(middle_speed(history)),
          duration_text(last.elapsed_s),
          duration_text(seconds_to_reach(history, last_bits(first.input.history))),
          fixed_text(balance.max_violation, 2),
          std::isfinite(balance.max_violation) ? count_text(balance.longest_dead) : "-",
          bytes_text(last.memory_bytes)};
}

std::string figures_table(const std::vector<ComparedRun>& runs) {
  std::string html =
      "<section class=\"card\" id=\"figures\"><h2>Last figures</h2>\n"
      "<table class=\"numbers\"><thead><tr>";
  for (const char* head : {"run", "state", "parameters", "steps", "tokens", "loss", "bits per byte",
                           "its best", "FLOPs", "tokens/s, median", "time",
                           "time to the first's last", "MaxVio", "dead, steps", "memory"}) {
    html += "<th>" + std::string(head) + "</th>";
  }
  html += "</tr></thead><tbody>\n";
  for (std::size_t i = 0; i < runs.size(); ++i) {
    html += "<tr><th scope=\"row\"><span class=\"swatch c" + std::to_string(i) + "\"></span>" +
            cell_text(runs[i].name) + "</th>";
    for (const std::string& figure : figures_of(runs[i], runs[0])) {
      html += "<td>" + cell_text(figure) + "</td>";
    }
    html += "</tr>\n";
  }
  return html +
         "</tbody></table><p class=\"remark\">MaxVio and dead experts of the second half: how far "
         "the busiest expert is above the mean, and how many steps in a row some expert had no "
         "token</p></section>\n";
}

// A row for each field, a column for each run.
std::string differences_table(const std::string& id, const std::string& title,
                              const std::vector<ComparedRun>& runs,
                              const std::vector<FieldDifference>& rows) {
  std::string html = "<section class=\"card\" id=\"" + id + "\"><h2>" + title + "</h2>\n";
  if (rows.empty()) return html + "<p class=\"remark\">nothing</p></section>\n";
  html += "<table class=\"fields\"><thead><tr><th>field</th>";
  for (std::size_t i = 0; i < runs.size(); ++i) {
    html += "<th><span class=\"swatch c" + std::to_string(i) + "\"></span>" +
            cell_text(runs[i].name) + "</th>";
  }
  html += "</tr></thead><tbody>\n";
  for (std::size_t r = 0; r < std::min(rows.size(), kMaxRows); ++r) {
    html += "<tr><th scope=\"row\">" + cell_text(rows[r].path) + "</th>";
    for (const std::string& value : rows[r].values) {
      html += "<td>" + (value.empty() ? "not set" : cell_text(value)) + "</td>";
    }
    html += "</tr>\n";
  }
  return html + "</tbody></table></section>\n";
}

std::vector<FieldDifference> recipe_rows(const std::vector<ComparedRun>& runs) {
  std::vector<Recipe> recipes;
  for (const ComparedRun& run : runs) recipes.push_back(run.recipe);
  return differences(recipes);
}

std::vector<FieldDifference> environment_rows(const std::vector<ComparedRun>& runs) {
  std::vector<FieldDifference> rows;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    for (const auto& [what, value] : runs[i].input.environment) {
      auto row = std::ranges::find(rows, what, &FieldDifference::path);
      if (row == rows.end()) {
        row = rows.insert(rows.end(), {what, std::vector<std::string>(runs.size())});
      }
      row->values[i] = value;
    }
  }
  std::erase_if(rows, [](const FieldDifference& row) {
    return std::ranges::all_of(row.values, [&](const auto& v) { return v == row.values[0]; });
  });
  return rows;
}

// The folders' own names, or their whole paths where two share one.
std::string name_of(const fs::path& folder, const std::vector<fs::path>& folders) {
  const auto own = [](const fs::path& f) {
    return fs::absolute(f / "").lexically_normal().parent_path();
  };
  const auto same = std::ranges::count_if(folders, [&](const fs::path& other) {
    return own(other).filename() == own(folder).filename();
  });
  return shortened(same == 1 ? own(folder).filename().string() : own(folder).string(),
                   kMaxNameBytes);
}

}  // namespace

std::vector<ComparedRun> read_runs(const std::vector<fs::path>& folders) {
  if (folders.size() > kMaxComparedRuns) {
    throw ConfigError({.key = "runs",
                       .what = "too many to tell apart",
                       .expected = "at most " + std::to_string(kMaxComparedRuns),
                       .actual = std::to_string(folders.size())});
  }
  std::vector<ComparedRun> runs;
  for (const fs::path& folder : folders) {
    ReportInput input = report_input_of(folder, fs::exists(folder / "finished"));
    runs.push_back({name_of(folder, folders), load_recipe((folder / "recipe.textproto").string()),
                    std::move(input)});
  }
  return runs;
}

std::string comparison_html(const std::vector<ComparedRun>& runs) {
  std::string title = std::to_string(runs.size()) + " runs";
  return report_page(
      title, "<header><h1>" + title + " side by side</h1></header>\n" + figures_table(runs) +
                 curves(runs) +
                 differences_table("recipe-differences", "What their recipes do not share", runs,
                                   recipe_rows(runs)) +
                 differences_table("environment-differences", "What their machines do not share",
                                   runs, environment_rows(runs)));
}

}  // namespace quern
