// SPDX-License-Identifier: MIT
// The tables and samples of report.html.
#include <algorithm>
#include <cmath>

#include "quern/recipes/internal/html.h"
#include "quern/recipes/internal/report_parts.h"
#include "quern/recipes/internal/units.h"

namespace quern::internal {
namespace {

constexpr std::size_t kMaxRows = 200, kMaxCellBytes = 300, kMaxDomains = 8, kMaxEvaluations = 24;
constexpr std::size_t kMaxSampledSteps = 12, kMaxSamplesPerStep = 8, kMaxSampleBytes = 1500;

std::string cell_text(const std::string& text) {
  return html_escape(shortened(text, kMaxCellBytes));
}

// ---- bits per byte against compressors ----

struct BitsRow {
  std::string name;
  i64 bytes = 0;     // 0: unknown
  double model = 0;  // not finite: not measured
  const CompressorBaseline* baseline = nullptr;
};

std::string bits_row(const BitsRow& row, bool compared, bool total) {
  std::vector<double> values{row.model};
  if (compared) {
    values.push_back(row.baseline ? row.baseline->gzip_bits_per_byte() : NAN);
    values.push_back(row.baseline ? row.baseline->xz_bits_per_byte() : NAN);
  }
  double best = INFINITY;
  for (const double x : values) best = std::isfinite(x) ? std::min(best, x) : best;
  std::string html = total ? "<tr class=\"total\">" : "<tr>";
  html += "<th scope=\"row\">" + cell_text(row.name) + "</th><td>" +
          (row.bytes > 0 ? count_text(row.bytes) : "-") + "</td>";
  for (const double x : values) {
    html += (compared && x == best ? "<td class=\"best\">" : "<td>") + fixed_text(x, 3) + "</td>";
  }
  return html + "</tr>\n";
}

std::vector<BitsRow> bits_rows(const EvalMetrics& eval, const CompressorBaselines* baselines) {
  std::vector<BitsRow> rows;
  i64 bytes = 0;
  for (const EvalMetrics::Domain& domain : eval.domains) {
    bytes += domain.bytes;
    BitsRow row{domain.name, domain.bytes, domain.bits_per_byte};
    if (baselines) {
      for (const CompressorBaseline& b : baselines->domains) {
        if (b.name == domain.name) row.baseline = &b;
      }
    }
    if (rows.size() + 1 < kMaxRows) rows.push_back(row);
  }
  rows.push_back({"all", bytes, eval.bits_per_byte, baselines ? &baselines->all : nullptr});
  return rows;
}

std::string bits_table(const ReportInput& input) {
  if (input.history.evals.empty()) return "";
  const EvalMetrics& eval = input.history.evals.back();
  const CompressorBaselines* baselines = input.compressors ? &*input.compressors : nullptr;
  const std::vector<BitsRow> rows = bits_rows(eval, baselines);
  std::string html = "<section class=\"card\" id=\"evaluation\"><h2>Bits per byte at step " +
                     count_text(eval.step) +
                     "</h2>\n<table class=\"numbers\"><thead><tr><th>text</th><th>bytes</th>"
                     "<th>model</th>";
  if (baselines) html += "<th>gzip -9</th><th>xz -9e</th>";
  html += "</tr></thead><tbody>\n";
  for (std::size_t i = 0; i < rows.size(); ++i) {
    html += bits_row(rows[i], baselines != nullptr, i + 1 == rows.size());
  }
  html += "</tbody></table>\n";
  // A comparison is fair on the same bytes only; the reader is told when they differ.
  const i64 measured = rows.back().bytes;
  if (baselines && measured > 0 && measured != baselines->all.bytes) {
    html += "<p class=\"remark\">The model was measured on " + count_text(measured) +
            " bytes, the compressors on " + count_text(baselines->all.bytes) + ".</p>\n";
  }
  return html + "</section>\n";
}

// ---- before and after ----

std::string before_after_table(const ReportInput& input) {
  if (input.before_after.empty()) return "";
  std::string html =
      "<section class=\"card\" id=\"before-after\"><h2>Before and after</h2>\n"
      "<table class=\"numbers\"><thead><tr><th>what</th><th>before</th><th>after</th></tr></thead>"
      "<tbody>\n";
  for (size_t i = 0; i < std::min(input.before_after.size(), kMaxRows); ++i) {
    const auto& [what, before, after] = input.before_after[i];
    html += "<tr><th scope=\"row\">" + cell_text(what) + "</th><td>" + cell_text(before) +
            "</td><td>" + cell_text(after) + "</td></tr>\n";
  }
  return html + "</tbody></table>\n</section>\n";
}

// ---- evaluations by step ----

// At most `count` of n places, evenly spread, the first and last among them.
std::vector<std::size_t> spread(std::size_t n, std::size_t count) {
  std::vector<std::size_t> places;
  count = std::min(n, count);
  for (std::size_t i = 0; i < count; ++i) {
    places.push_back(count > 1 ? i * (n - 1) / (count - 1) : n - 1);
  }
  return places;
}

std::string evaluation_history(const std::vector<EvalMetrics>& evals) {
  if (evals.size() < 2) return "";
  const std::vector<EvalMetrics::Domain>& domains = evals.back().domains;
  const std::size_t columns = domains.size() > 1 ? std::min(domains.size(), kMaxDomains) : 0;
  std::string html =
      "<section class=\"card\" id=\"evaluations\"><h2>Evaluations, bits per byte</h2>\n"
      "<table class=\"numbers\"><thead><tr><th>step</th><th>nats per token</th>"
      "<th>all</th>";
  for (std::size_t d = 0; d < columns; ++d) html += "<th>" + cell_text(domains[d].name) + "</th>";
  html += "</tr></thead><tbody>\n";
  for (const std::size_t i : spread(evals.size(), kMaxEvaluations)) {
    const EvalMetrics& eval = evals[i];
    html += "<tr><th scope=\"row\">" + count_text(eval.step) + "</th><td>" +
            fixed_text(eval.loss, 3) + "</td><td>" + fixed_text(eval.bits_per_byte, 3) + "</td>";
    for (std::size_t d = 0; d < columns; ++d) {
      const auto same =
          std::ranges::find(eval.domains, domains[d].name, &EvalMetrics::Domain::name);
      html += "<td>" + (same == eval.domains.end() ? "-" : fixed_text(same->bits_per_byte, 3)) +
              "</td>";
    }
    html += "</tr>\n";
  }
  return html + "</tbody></table></section>\n";
}

// ---- routers ----

std::string router_table(const std::vector<StepMetrics>& steps) {
  const auto last = std::find_if(steps.rbegin(), steps.rend(),
                                 [](const StepMetrics& step) { return !step.router.empty(); });
  if (last == steps.rend()) return "";
  std::string html = "<section class=\"card\" id=\"routers\"><h2>Routers at step " +
                     count_text(last->step) +
                     "</h2>\n<table class=\"numbers\"><thead><tr><th>MoE layer</th>";
  for (const RouterMetric& metric : kRouterMetrics) {
    std::string name = metric.name;
    std::ranges::replace(name, '_', ' ');
    html += "<th>" + name + "</th>";
  }
  html += "</tr></thead><tbody>\n";
  for (std::size_t layer = 0; layer < std::min(last->router.size(), kMaxRows); ++layer) {
    html += "<tr><th scope=\"row\">" + std::to_string(layer) + "</th>";
    for (const RouterMetric& metric : kRouterMetrics) {
      html += "<td>" + fixed_text(last->router[layer].*metric.value, 3) + "</td>";
    }
    html += "</tr>\n";
  }
  return html +
         "</tbody></table>\n<p class=\"remark\">Loads are over the mean, entropies in nats, losses "
         "without their alphas.</p></section>\n";
}

// ---- plain tables ----

std::string rows_table(const std::string& id, const std::string& title,
                       const ReportInput::Rows& rows) {
  if (rows.empty()) return "";
  std::string html =
      "<section class=\"card\" id=\"" + id + "\"><h2>" + title + "</h2>\n<table><tbody>\n";
  for (std::size_t i = 0; i < std::min(rows.size(), kMaxRows); ++i) {
    html += "<tr><th scope=\"row\">" + cell_text(rows[i].first) + "</th><td>" +
            cell_text(rows[i].second) + "</td></tr>\n";
  }
  return html + "</tbody></table></section>\n";
}

std::string event_table(const std::vector<EventMetrics>& events) {
  ReportInput::Rows rows;
  const std::size_t first = events.size() - std::min(events.size(), kMaxRows / 4);
  for (std::size_t i = first; i < events.size(); ++i) {
    const EventMetrics& event = events[i];
    rows.push_back({"step " + count_text(event.step),
                    event.detail.empty() ? event.name : event.name + ": " + event.detail});
  }
  return rows_table("events", "Events", rows);
}

// ---- samples ----

std::string sample_group(const std::vector<SampleMetrics>& samples, std::size_t begin,
                         std::size_t end, bool open) {
  std::string html = std::string("<details") + (open ? " open" : "") + "><summary>step " +
                     count_text(samples[begin].step) + "</summary>\n";
  for (std::size_t i = begin; i < std::min(end, begin + kMaxSamplesPerStep); ++i) {
    html += "<blockquote><b>" + html_escape(shortened(samples[i].prompt, kMaxSampleBytes)) +
            "</b>" + html_escape(shortened(samples[i].text, kMaxSampleBytes)) + "</blockquote>\n";
  }
  return html + "</details>\n";
}

}  // namespace

std::string report_tables(const ReportInput& input) {
  const std::string pair = rows_table("model", "Model", input.model) +
                           rows_table("environment", "Environment", input.environment);
  return before_after_table(input) + bits_table(input) + evaluation_history(input.history.evals) +
         (pair.empty() ? "" : "<section class=\"pair\">\n" + pair + "</section>\n") +
         router_table(input.history.steps) + event_table(input.history.events);
}

std::string report_samples(const ReportInput& input) {
  const std::vector<SampleMetrics>& samples = input.history.samples;
  if (samples.empty()) return "";
  std::vector<std::size_t> groups;  // where the samples of a step begin
  for (std::size_t i = 0; i < samples.size(); ++i) {
    if (i == 0 || samples[i].step != samples[i - 1].step) groups.push_back(i);
  }
  std::string html = "<section class=\"card\" id=\"samples\"><h2>Samples</h2>\n";
  std::vector<std::size_t> shown = spread(groups.size(), kMaxSampledSteps);
  std::reverse(shown.begin(), shown.end());
  for (const std::size_t g : shown) {
    const std::size_t end = g + 1 < groups.size() ? groups[g + 1] : samples.size();
    html += sample_group(samples, groups[g], end, g == shown.front());
  }
  return html + "</section>\n";
}

}  // namespace quern::internal
