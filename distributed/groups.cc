// SPDX-License-Identifier: MIT
#include "quern/distributed/groups.h"

#include <string>

#include "quern/autograd/error.h"

namespace quern {

ParallelGroups::ParallelGroups(const Communicator& all, i64 ep_size) : world(all) {
  if (ep_size < 1 || all.size() % ep_size != 0) {
    throw ConfigError({.key = "distributed.ep_size",
                       .what = "does not divide the number of ranks",
                       .expected = "a divisor of " + std::to_string(all.size()),
                       .actual = std::to_string(ep_size),
                       .hint = "start as many ranks as a multiple of it, or set it to 1"});
  }
  ep = all.split(int(all.rank() / ep_size));
  expert_dp = all.split(int(all.rank() % ep_size));
}

}  // namespace quern
