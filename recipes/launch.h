// SPDX-License-Identifier: MIT
// `quern train --ranks N`: the program starts itself again under mpirun.
#pragma once

#include "quern/autograd/kernels/types.h"

namespace quern {

// Becomes mpirun with this command line, without its --ranks, and does not return. Throws
// ConfigError where this is a rank already, and IoError where there is no mpirun.
[[noreturn]] void launch_ranks(i64 ranks, int argc, char** argv);

}  // namespace quern
