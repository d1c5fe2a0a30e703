// SPDX-License-Identifier: MIT
// The report of a step put together from those of its micro-batches, wherever they were computed.
#pragma once

#include <span>

#include "quern/distributed/communicator.h"
#include "quern/recipes/trainer.h"

namespace quern {

// Adds the micro-batches of all ranks, in the order of ranks: `own` are those of this one. Every
// rank gets the same sums, with the bits that one rank alone would get.
void add_parts(std::span<const MicroBatchReport> own, const Communicator& world,
               StepReport& report);

}  // namespace quern
