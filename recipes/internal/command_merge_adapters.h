// SPDX-License-Identifier: MIT
// `quern merge-adapters`.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace quern {

struct MergeAdaptersCommand {
  std::string model, out;
  std::vector<std::string> adapters;

  void define(CLI::App& app);
  void run() const;
};

}  // namespace quern
