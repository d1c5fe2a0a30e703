// SPDX-License-Identifier: MIT
// How the ranks of a job are grouped.
#pragma once

#include "quern/distributed/communicator.h"

namespace quern {

// Every rank computes its own lanes of a step. The routed experts are spread over the ranks of an
// `ep` group, neighbours; those that hold the same experts are an `expert_dp` group. All other
// parameters are on every rank of the world.
struct ParallelGroups {
  ParallelGroups() = default;  // one rank
  // Throws ConfigError where `ep_size` does not divide the number of ranks.
  ParallelGroups(const Communicator& world, i64 ep_size);

  Communicator world, ep, expert_dp;
};

}  // namespace quern
