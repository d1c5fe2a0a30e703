// SPDX-License-Identifier: MIT
// The speed of generating one token at a time, of one sequence or several, beside what memory
// allows.
#pragma once

#include "quern/autograd/tensor.h"
#include "quern/layers/config.h"

namespace quern::bench {

// A pass: one more token for each sequence.
struct DecodeTimes {
  double pass_seconds = 0;       // median over the passes after the context
  double prompt_seconds = 0;     // of one sequence's context
  double experts_per_layer = 0;  // different ones that a pass used, mean over layers and passes
  double bytes_per_pass = 0;     // weights that a pass uses, and the caches at the middle length
  double read_rate = 0;          // bytes per second, of a buffer as large as the model's weights
  double share() const { return bytes_per_pass / pass_seconds / read_rate; }
};

// A model with random weights, greedy choices, `batch` sequences of the same length. Throws Error
// when the logits of decoding are not those of the forward pass.
DecodeTimes time_decode(const ModelConfig& config, DType dtype, std::int64_t context,
                        std::int64_t tokens, std::int64_t batch = 1);

}  // namespace quern::bench
