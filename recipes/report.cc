// SPDX-License-Identifier: MIT
#include "quern/recipes/report.h"

#include <cmath>

#include "quern/data/atomic_file.h"
#include "quern/recipes/internal/html.h"
#include "quern/recipes/internal/report_parts.h"
#include "quern/recipes/internal/units.h"

namespace quern {
namespace {

using namespace internal;

constexpr std::size_t kMaxTextBytes = 2000;

std::string tile(const std::string& name, const std::string& value, const std::string& unit,
                 const std::string& detail) {
  return "<div class=\"tile\"><div class=\"name\">" + name + "</div><div class=\"value\">" + value +
         (unit.empty() ? "" : "<span class=\"unit\">" + unit + "</span>") +
         "</div><div class=\"detail\">" + detail + "</div></div>\n";
}

std::string validation_tile(const ReportInput& input) {
  if (input.history.evals.empty()) return "";
  std::string detail;
  if (input.compressors) {
    const CompressorBaseline& all = input.compressors->all;
    detail = "xz -9e " + fixed_text(all.xz_bits_per_byte(), 2) + " \xC2\xB7 gzip -9 " +
             fixed_text(all.gzip_bits_per_byte(), 2);
  }
  return tile("Validation", fixed_text(input.history.evals.back().bits_per_byte, 3),
              "bits per byte", detail);
}

std::string tiles(const ReportInput& input) {
  std::string html = validation_tile(input);
  if (!input.history.steps.empty()) {
    const StepMetrics& last = input.history.steps.back();
    html += tile("Training loss", fixed_text(last.loss, 3), "", "nats per token");
    html += tile("Tokens seen", short_text(double(last.tokens_seen)), "",
                 "by step " + count_text(last.step));
    html +=
        tile("Speed", short_text(last.tokens_per_s), "tokens/s",
             last.share_of_peak > 0 ? fixed_text(last.share_of_peak * 100, 0) + "% of measured peak"
                                    : "");
    html += tile("Time", duration_text(last.elapsed_s), "", "of training");
    if (last.memory_bytes > 0) html += tile("Memory", bytes_text(last.memory_bytes), "", "");
  }
  return html.empty() ? "" : "<section class=\"tiles\">\n" + html + "</section>\n";
}

std::string header(const ReportInput& input) {
  std::string state = input.finished ? "finished" : "in progress";
  std::string detail = "nothing measured yet";
  if (!input.history.steps.empty()) {
    const i64 step = input.history.steps.back().step;
    detail = "step " + count_text(step);
    if (input.total_steps > 0) detail += " of " + count_text(input.total_steps);
  }
  return "<header><h1>" + html_escape(shortened(input.title, kMaxTextBytes)) +
         "</h1><p class=\"state\"><span class=\"badge" + (input.finished ? " done" : "") + "\">" +
         state + "</span> " + detail + "</p></header>\n";
}

}  // namespace

std::string report_html(const ReportInput& input) {
  const std::string title = html_escape(shortened(input.title, kMaxTextBytes));
  return report_page(title, header(input) + tiles(input) + report_charts(input) +
                                report_samples(input) + report_tables(input) +
                                report_recipe(input));
}

void write_report(const std::filesystem::path& path, const ReportInput& input) {
  write_file_atomically(path, report_html(input));
}

}  // namespace quern
