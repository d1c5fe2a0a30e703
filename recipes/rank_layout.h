// SPDX-License-Identifier: MIT
// How a run is laid out over ranks, and what each of them then holds.
#pragma once

#include "quern/recipes/describe.h"

namespace quern {

// So many ranks, and over how many of them the routed experts of a layer are spread.
struct RankLayout {
  i64 ranks = 1, ep_size = 1;
};

// Of so many lanes. Throws ConfigError where the ranks do not share them evenly.
i64 lanes_of_a_rank(i64 lanes, i64 ranks);
// Throws ConfigError where so many ranks cannot share the run.
void check_ranks(const Recipe& recipe, i64 ranks);
// Before a run begins: one lane becomes one for each rank, and all is checked.
void settle_lanes(Recipe& recipe, i64 ranks);

// Of each rank.
MemoryEstimate estimate_memory(const Recipe& recipe, i64 trained, const RankLayout& layout);

// Of all ranks that are on this machine.
bool fits_memory(const Recipe& recipe, const RankLayout& layout);
// Throws ConfigError when it does not fit.
void check_memory(const Recipe& recipe, const RankLayout& layout);

}  // namespace quern
