// SPDX-License-Identifier: MIT
// The command line as it came, for the programs that it is given on to.
#pragma once

#include <CLI/CLI.hpp>

#include "quern/distributed/communicator.h"

namespace quern {

struct Invocation {
  int argc;
  char** argv;
  const Communicator& ranks;  // that it runs on
};

inline void add_ranks_option(CLI::App& command, i64& ranks) {
  command.add_option("--ranks", ranks, "start so many processes with mpirun, and share the work")
      ->check(CLI::Range(i64(1), i64(1) << 16));
}

}  // namespace quern
