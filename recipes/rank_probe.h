// SPDX-License-Identifier: MIT
// What a rank computes in a step, measured while all ranks compute.
#pragma once

#include <memory>
#include <span>

#include "quern/data/sampler.h"
#include "quern/distributed/communicator.h"
#include "quern/recipes/cost_model.h"
#include "quern/recipes/trainer.h"

namespace quern {

// Steps of a model that is then thrown away. Each rank trains alone, at the same time as the
// others, so that cores and memory are shared as in a run with as many ranks: seconds are those of
// the slowest rank, in the middle of `rounds`. A call of all ranks.
class RankProbe {
 public:
  RankProbe(const Recipe& recipe, std::shared_ptr<const Sampler> sampler,
            const Communicator& ranks);

  // A step that does not count.
  void warm_up();
  // One step of each number of micro-batches, the next round.
  void take(std::span<const i64> micro_batches);
  // The same on all ranks.
  ComputeCost cost() const;

 private:
  struct Times {
    i64 micro_batches;
    std::vector<double> seconds;  // by round
  };

  Communicator ranks_;
  i64 sequences_;  // of a micro-batch
  std::shared_ptr<const Sampler> sampler_;
  Trainer trainer_;
  std::vector<Times> differentiated_;
  std::vector<double> optimized_;
  std::vector<std::vector<i64>> load_;
};

// A probe of a few seconds, over the sizes that ranks of this recipe would have.
ComputeCost measure_compute(const Recipe& recipe, std::shared_ptr<const Sampler> sampler,
                            const Communicator& ranks);

}  // namespace quern
