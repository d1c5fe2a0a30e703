// SPDX-License-Identifier: MIT
#include "quern/recipes/internal/command_report.h"

#include <cstdio>
#include <filesystem>

#include "quern/autograd/error.h"
#include "quern/data/atomic_file.h"
#include "quern/recipes/report_compare.h"
#include "quern/recipes/run_report.h"

namespace quern {

namespace fs = std::filesystem;

void ReportCommand::define(CLI::App& app) {
  CLI::App* c = app.add_subcommand("report", "A page about one run, or several side by side");
  c->footer(
      "Examples:\n  quern report build/example\n"
      "  quern report build/example build/example --out build/both.html");
  c->add_option("runs", runs, "folders of runs")->required();
  c->add_option("--out", out, "the page; default for one run: its report.html");
  c->callback([this] { run(); });
}

void ReportCommand::run() {
  const std::vector<fs::path> folders(runs.begin(), runs.end());
  if (folders.size() > 1 && out.empty()) {
    throw ConfigError({.key = "--out", .what = "missing", .hint = "a file for the page"});
  }
  const fs::path page = out.empty() ? folders[0] / "report.html" : fs::path(out);
  if (folders.size() == 1) {
    write_report(page, report_input_of(folders[0], fs::exists(folders[0] / "finished")));
  } else {
    write_file_atomically(page, comparison_html(read_runs(folders)));
  }
  std::printf("%s\n", page.c_str());
}

}  // namespace quern
