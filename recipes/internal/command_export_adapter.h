// SPDX-License-Identifier: MIT
// `quern export-adapter`.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

namespace quern {

struct ExportAdapterCommand {
  std::string model, out;

  void define(CLI::App& app);
};

}  // namespace quern
