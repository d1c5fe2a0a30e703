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

}  // namespace quern
