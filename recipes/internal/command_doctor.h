// SPDX-License-Identifier: MIT
// `quern doctor`.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "quern/autograd/error.h"

namespace quern {

struct DoctorCommand {
  std::string folder = ".";
  bool json = false;
  ExitCode* result = nullptr;

  void define(CLI::App& app, ExitCode* code);
  void run();
};

}  // namespace quern
