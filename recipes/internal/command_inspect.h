// SPDX-License-Identifier: MIT
// `quern inspect`.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "quern/autograd/error.h"
#include "quern/autograd/kernels/types.h"

namespace quern {

struct InspectCommand {
  std::string path, out;
  std::vector<std::string> routing;
  i64 sequence_length = 0, max_tokens = i64(1) << 16, shown_tokens = 64;
  bool json = false, verify = false;
  ExitCode* result = nullptr;

  void define(CLI::App& app, ExitCode* code);
  void run();

 private:
  void verify_files();
  void show_routing();
};

}  // namespace quern
