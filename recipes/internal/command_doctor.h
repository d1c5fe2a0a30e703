// SPDX-License-Identifier: MIT
// `quern doctor`.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "quern/autograd/error.h"
#include "quern/recipes/internal/invocation.h"

namespace quern {

struct DoctorCommand {
  const Invocation& invocation;
  std::string folder = ".";
  bool json = false, network = false;
  i64 ranks = 1;
  std::string recipe;
  std::vector<std::string> overrides;
  std::vector<i64> predicted;  // numbers of ranks
  ExitCode* result = nullptr;

  void define(CLI::App& app, ExitCode* code);
  void run();

 private:
  void examine_machine();
  void measure_network();  // --network
};

}  // namespace quern
