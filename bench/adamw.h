// SPDX-License-Identifier: MIT
// AdamW against what memory allows: a loop that reads and writes the same numbers.
#pragma once

#include <vector>

#include "quern/autograd/tensor.h"
#include "quern/layers/config.h"

namespace quern::bench {

struct AdamWTimes {
  i64 parameters = 0;
  // Read and written: gradient, weight, both moments; weight, both moments and a bf16 weight's
  // image.
  i64 bytes_per_parameter = 0;
  std::vector<double> adamw, stream;  // seconds of each round
};

// Steps over the parameters of a model, in turn with the loop, over the same memory. Throws Error
// when a step gives other numbers than the formula in double.
AdamWTimes time_adamw(const ModelConfig& config, DType dtype, bool bf16_moments, int rounds);

}  // namespace quern::bench
