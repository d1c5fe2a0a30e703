// SPDX-License-Identifier: MIT
#include "quern/recipes/rank_limits.h"

#include <string>

#include "quern/layers/internal/check_range.h"

namespace quern {

using internal::refuse;
using std::to_string;

void check_ranks(const Recipe& recipe, i64 ranks) {
  const i64 ep_size = recipe.distributed.ep_size, lanes = recipe.train.lanes;
  if (ranks % ep_size != 0) {
    refuse("distributed.ep_size", "a divisor of the number of ranks, " + to_string(ranks),
           to_string(ep_size), "start as many ranks as a multiple of it, or set it to 1");
  }
  if (lanes % ranks != 0) {
    refuse("train.lanes", "a multiple of the number of ranks, " + to_string(ranks),
           to_string(lanes), "start as many ranks as a divisor of the lanes");
  }
}

void settle_lanes(Recipe& recipe, i64 ranks) {
  if (recipe.train.lanes == 1) recipe.train.lanes = ranks;
  check_ranks(recipe, ranks);
  validate(recipe);
}

}  // namespace quern
