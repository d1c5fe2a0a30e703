// SPDX-License-Identifier: MIT
// What a recipe would build and cost, without training.
#pragma once

#include "quern/recipes/describe.h"

namespace quern {

// Parameters, FLOPs, memory, those of a teacher too, and the time per step from a short probe when
// the token files exist. With several ranks the memory is that of each, and there is no probe.
// Throws ConfigError where so many do not share the work evenly, or the teacher is no checkpoint.
Figures dry_run(const Recipe& recipe, i64 ranks = 1);

}  // namespace quern
