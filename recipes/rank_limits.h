// SPDX-License-Identifier: MIT
// Which numbers of ranks can share a run.
#pragma once

#include "quern/autograd/kernels/types.h"
#include "quern/recipes/recipe.h"

namespace quern {

// Throws ConfigError where so many ranks cannot share it.
void check_ranks(const Recipe& recipe, i64 ranks);
// Before a run begins: one lane becomes one for each rank, and all is checked.
void settle_lanes(Recipe& recipe, i64 ranks);

}  // namespace quern
