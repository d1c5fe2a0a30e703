// SPDX-License-Identifier: MIT
// The cost model of recipes/cost_model.h against steps that were taken.
#pragma once

#include <span>
#include <vector>

#include "quern/recipes/cost_model.h"

namespace quern::bench {

struct PredictedPoint {
  RankLayout layout;
  i64 tokens = 0;                                   // of a rank
  double predicted = 0, measured = 0, compute = 0;  // seconds
  double error() const { return predicted / measured - 1; }
};

struct LayoutBench {
  NetworkCost network;
  std::vector<PredictedPoint> points;
};

// On the ranks of `world`, for each ep_size that divides them and the experts, and each number of
// micro-batches in `held_out`. What one rank computes is measured at 1, 4 and 9 micro-batches
// alone, all ranks at once, in turn with the steps: so that a machine that is busy with something
// else is as busy with it for both. Seconds are medians over the rounds, of the slowest rank.
LayoutBench bench_layouts(const Recipe& recipe, const Communicator& world,
                          std::span<const i64> held_out, int rounds);

}  // namespace quern::bench
