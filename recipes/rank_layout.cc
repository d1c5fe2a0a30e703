// SPDX-License-Identifier: MIT
#include "quern/recipes/rank_layout.h"

#include <string>

#include "quern/autograd/error.h"

namespace quern {

i64 lanes_of_a_rank(i64 lanes, i64 ranks) {
  if (lanes % ranks == 0) return lanes / ranks;
  throw ConfigError({.key = "train.lanes",
                     .what = "the ranks do not share the lanes evenly",
                     .expected = "a multiple of the " + std::to_string(ranks) + " ranks",
                     .actual = std::to_string(lanes),
                     .hint = "start as many ranks as a divisor of the lanes"});
}

void check_ranks(const Recipe& recipe, i64 ranks) {
  const i64 ep_size = recipe.distributed.ep_size;
  if (ranks % ep_size != 0) {
    throw ConfigError({.key = "distributed.ep_size",
                       .expected = "a divisor of the number of ranks, " + std::to_string(ranks),
                       .actual = std::to_string(ep_size),
                       .hint = "start as many ranks as a multiple of it, or set it to 1"});
  }
  lanes_of_a_rank(recipe.train.lanes, ranks);
}

void settle_lanes(Recipe& recipe, i64 ranks) {
  if (recipe.train.lanes == 1) recipe.train.lanes = ranks;
  check_ranks(recipe, ranks);
  validate(recipe);
}

}  // namespace quern
