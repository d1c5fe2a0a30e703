// SPDX-License-Identifier: MIT
// What a recipe would build and cost, without training.
#pragma once

#include "quern/recipes/describe.h"

namespace quern {

// Parameters, FLOPs, memory, and the time per step from a short probe when the token files exist.
Figures dry_run(const Recipe& recipe);

}  // namespace quern
