// SPDX-License-Identifier: MIT
// What a step would take with other numbers of ranks: arithmetic, from what was measured here.
#pragma once

#include <span>
#include <vector>

#include "quern/distributed/network.h"
#include "quern/recipes/rank_layout.h"

namespace quern {

// What one rank needs for its part of a step, without the others.
struct ComputeCost {
  struct Sample {
    i64 micro_batches = 0;
    double seconds = 0;  // of forward and backward
  };
  std::vector<Sample> samples;                // ascending, at least one
  double optimizer_s = 0;                     // with the moments of all parameters
  std::vector<std::vector<i64>> expert_load;  // [MoE layers][experts], tokens; empty: even

  // On the lines from sample to sample, and on with the first and the last of them. One sample is
  // a line through nothing.
  double seconds(i64 micro_batches) const;
};

// A step by its parts, in seconds of the rank that takes longest.
struct StepPrediction {
  RankLayout layout;
  i64 micro_batches = 0;  // of each rank
  double compute = 0;     // forward, backward, optimizer
  double gradients = 0;   // summed over ranks
  double experts = 0;     // tokens to the ranks of their experts, rows back, and their gradients
  double weights = 0;     // from the ranks that have their moments, where these are spread
  double agreement = 0;   // the small messages of every step
  i64 memory = 0;         // bytes, of a rank

  double seconds() const { return compute + gradients + experts + weights + agreement; }
};

// t = compute + communication, but for the part of it that disappears behind compute: of the sums
// behind backward of the last micro-batch, of what goes to experts behind those at home and the
// shared ones. Where experts are spread, the ranks of a group wait for the one whose experts get
// most of `expert_load`.
StepPrediction predict_step(const Recipe& recipe, const RankLayout& layout, i64 micro_batches,
                            const ComputeCost& compute, const NetworkCost& network);

// What one rank sends for one MoE layer and micro-batch, forward and backward, as
// SpreadExpertFfn sends it: counts, each token once to a rank with its weights and slots, a row
// back for each choice; gradients alike.
Traffic expert_traffic(const ModelConfig& config, i64 ep_size, i64 tokens, i64 operand_bytes,
                       bool recompute);
// The part of it that goes to the experts while others compute: tokens and their gradients.
Traffic outward_traffic(const ModelConfig& config, i64 ep_size, i64 tokens, i64 operand_bytes,
                        bool recompute);
// Other ranks of `ep_size` that a token goes to, on average, where all choices are equally likely.
double other_ranks_hit(const ModelConfig& config, i64 ep_size);
// The tokens of the fullest rank over those of the mean one, averaged over layers.
double imbalance(std::span<const std::vector<i64>> expert_load, i64 ep_size);

// Micro-batches of each rank: the recipe's batch shared, or one, and the batch is larger.
i64 micro_batches_of_a_rank(const Recipe& recipe, i64 ranks);

// Every ep_size that `ranks` and the experts allow, for each number of ranks.
std::vector<StepPrediction> predict_layouts(const Recipe& recipe, std::span<const i64> ranks,
                                            const ComputeCost& compute, const NetworkCost& network);
// Of predictions for one number of ranks the fastest with at most so much memory, and of those that
// are within 2 % of it the one with the smallest ep_size; null where none fits.
const StepPrediction* recommended(std::span<const StepPrediction> predictions, i64 memory);

}  // namespace quern
