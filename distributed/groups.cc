// SPDX-License-Identifier: MIT
#include "quern/distributed/groups.h"

#include <string>

#include "quern/autograd/error.h"
#include "quern/distributed/check_ep_size.h"

namespace quern {

void check_ep_size(i64 ranks, i64 ep_size) {
  if (ep_size >= 1 && ranks % ep_size == 0) return;
  throw ConfigError({.key = "distributed.ep_size",
                     .what = "does not divide the number of ranks",
                     .expected = "a divisor of " + std::to_string(ranks),
                     .actual = std::to_string(ep_size),
                     .hint = "start as many ranks as a multiple of it, or set it to 1"});
}

ParallelGroups::ParallelGroups(const Communicator& all, i64 ep_size) : world(all) {
  check_ep_size(all.size(), ep_size);
  ep = all.split(int(all.rank() / ep_size));
  expert_dp = all.split(int(all.rank() % ep_size));
}

}  // namespace quern
