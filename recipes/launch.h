// SPDX-License-Identifier: MIT
// `quern train --ranks N`: the program starts itself again under mpirun.
#pragma once

#include "quern/autograd/kernels/types.h"

namespace quern {

// Runs this command line, without its --ranks, under mpirun, and returns its exit code. The first
// SIGINT or SIGTERM asks the ranks to save and stop, by SIGUSR1; the next one ends them. Throws
// ConfigError where this is a rank already, and IoError where there is no mpirun.
int launch_ranks(i64 ranks, int argc, char** argv);

}  // namespace quern
