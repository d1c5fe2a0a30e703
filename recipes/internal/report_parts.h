// SPDX-License-Identifier: MIT
// The pieces report.html is put together from; each returns HTML, empty when there is nothing.
#pragma once

#include <string>
#include <vector>

#include "quern/recipes/internal/svg_plot.h"
#include "quern/recipes/report.h"

namespace quern::internal {

extern const char* const kReportStyle;  // the style sheet

// The whole page, of these sections.
std::string report_page(const std::string& title, const std::string& body);

struct MarkName {
  std::string text, style;
};

// A card with heading, newest value, legend and plot.
std::string panel(const std::string& id, const std::string& title, const std::string& now,
                  const Plot& plot, const std::vector<MarkName>& marks = {});

// A card with a heatmap of loads and its legend.
std::string load_panel(const std::string& id, const std::string& title, const std::string& now,
                       const std::string& svg);

// A member of every step, as a curve.
template <class Member>
std::vector<Point> series(const std::vector<StepMetrics>& steps, Member member) {
  std::vector<Point> points;
  points.reserve(steps.size());
  for (const StepMetrics& step : steps) points.push_back({double(step.step), step.*member});
  return points;
}

std::string report_charts(const ReportInput& input);   // the plots and the expert heatmaps
std::string phase_panel(const RunHistory& history);    // where the time went
std::string report_tables(const ReportInput& input);   // evaluations, model and environment
std::string report_recipe(const ReportInput& input);   // the recipe, its differences, commands
std::string report_samples(const ReportInput& input);  // what the model wrote, newest first

}  // namespace quern::internal
