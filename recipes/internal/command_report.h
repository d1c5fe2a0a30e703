// SPDX-License-Identifier: MIT
// `quern report`.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace quern {

struct ReportCommand {
  std::vector<std::string> runs;
  std::string out;

  void define(CLI::App& app);
  void run();
};

}  // namespace quern
