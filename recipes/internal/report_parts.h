// SPDX-License-Identifier: MIT
// The pieces report.html is put together from; each returns HTML, empty when there is nothing.
#pragma once

#include <string>

#include "quern/recipes/report.h"

namespace quern::internal {

extern const char* const kReportStyle;  // the style sheet

std::string report_charts(const ReportInput& input);   // the plots and the expert heatmaps
std::string phase_panel(const RunHistory& history);    // where the time went
std::string report_tables(const ReportInput& input);   // evaluations, model and environment
std::string report_recipe(const ReportInput& input);   // the recipe, its differences, commands
std::string report_samples(const ReportInput& input);  // what the model wrote, newest first

}  // namespace quern::internal
