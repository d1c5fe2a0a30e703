// SPDX-License-Identifier: MIT
// `quern_bench adamw` and `quern_bench checkpoint`: what a step, and a save, do to the state.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "quern/autograd/tensor.h"
#include "quern/layers/config.h"

namespace quern::bench {

// What both take the state of.
struct StateCommand {
  std::string preset_name = "small", dtype = "bf16", moments = "fp32";
  i64 threads = 0;
  int rounds = 0;
  bool json = false;

  CLI::App* define(CLI::App& app, const char* name, const char* what, int usual_rounds);
};

struct AdamWCommand : StateCommand {
  void define_in(CLI::App& app);
  void run() const;
};

struct CheckpointCommand : StateCommand {
  std::string folder;
  void define_in(CLI::App& app);
  void run() const;
};

}  // namespace quern::bench
