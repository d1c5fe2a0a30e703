// SPDX-License-Identifier: MIT
// For tests that quern_ranks_test() starts: all ranks make the same calls of googletest.
#pragma once

#include "quern/distributed/runtime.h"

namespace quern::testing {

const Communicator& world();

}  // namespace quern::testing
