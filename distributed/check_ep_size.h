// SPDX-License-Identifier: MIT
// Whether so many ranks can be grouped.
#pragma once

#include "quern/autograd/kernels/types.h"

namespace quern {

// Throws ConfigError where `ep_size` does not divide the number of ranks.
void check_ep_size(i64 ranks, i64 ep_size);

}  // namespace quern
