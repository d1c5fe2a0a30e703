// SPDX-License-Identifier: MIT
// `quern resegment`.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>

namespace quern {

struct ResegmentCommand {
  std::string model, out;
  std::int64_t factor = 0, seed = 1;
  double noise = 0;

  void define(CLI::App& app);

 private:
  void run() const;
};

}  // namespace quern
