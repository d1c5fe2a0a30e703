// SPDX-License-Identifier: MIT
// `quern doctor --network` in words and in JSON: what messages cost here, and which layout of ranks
// a recipe would do best with.
#pragma once

#include <string>
#include <vector>

#include "quern/recipes/cost_model.h"

namespace quern {

struct NetworkReport {
  i64 ranks = 1;
  std::string machines;  // "1 machine", "4 machines"
  NetworkTimes times;
  NetworkCost cost;
  // With a recipe:
  std::vector<StepPrediction> layouts;  // by number of ranks, then by ep_size
  i64 tokens_of_micro_batch = 0;
  i64 memory_of_rank = 0;  // bytes that a rank may use
};

std::string table_of(const NetworkReport& report);
std::string json_of(const NetworkReport& report);

}  // namespace quern
