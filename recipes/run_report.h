// SPDX-License-Identifier: MIT
// The report of a run, made from what its folder holds.
#pragma once

#include <filesystem>

#include "quern/recipes/report.h"

namespace quern {

// Throws ConfigError when the folder holds no run, DataError when its log cannot be read.
ReportInput report_input_of(const std::filesystem::path& run, bool finished);

// Writes run/report.html, at once or not at all. Throws as above, and IoError.
void write_run_report(const std::filesystem::path& run, bool finished);

// The last validation, domain by domain, beside that of step 0 where there was one.
std::string validation_text(const RunHistory& history);

}  // namespace quern
