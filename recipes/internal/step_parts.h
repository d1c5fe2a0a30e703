// SPDX-License-Identifier: MIT
// The report of a step put together from those of its micro-batches, wherever they were computed.
#pragma once

#include <span>

#include "quern/distributed/communicator.h"
#include "quern/recipes/trainer.h"

namespace quern {

// A lane of a step, and the sequences [begin, end) of the step's batch that it has.
struct LanePart {
  i64 lane, begin, end;
};
// The `own`-th lane of a rank; the ranks have as many each, in their order.
inline LanePart lane_part(i64 own, i64 rank, i64 ranks, i64 lanes, i64 sequences) {
  const i64 lane = rank * (lanes / ranks) + own, size = sequences / lanes;
  return {lane, lane * size, (lane + 1) * size};
}

// Adds the micro-batches of all ranks, in the order of ranks: `own` are those of this one. Every
// rank gets the same sums, with the bits that one rank alone would get.
void add_parts(std::span<const MicroBatchReport> own, const Communicator& world,
               StepReport& report);

}  // namespace quern
