// SPDX-License-Identifier: MIT
// The speed of generating one token at a time, of one sequence or several, beside what memory
// allows.
#pragma once

#include "quern/autograd/tensor.h"
#include "quern/layers/config.h"

namespace quern::bench {

struct DecodeTimes {
  double seconds = 0;          // of all tokens after the context
  double prompt_seconds = 0;   // of one sequence's context
  double bytes_per_token = 0;  // weights that one token uses, and the cache at the middle length
  double read_rate = 0;        // bytes per second, of a buffer as large as the model's weights
  double share() const { return bytes_per_token * double(tokens) / seconds / read_rate; }
  std::int64_t tokens = 0;  // of each sequence
  std::int64_t batch = 1;
};

// A model with random weights, greedy choices, `batch` sequences of the same length. Throws Error
// when the logits of decoding are not those of the forward pass.
DecodeTimes time_decode(const ModelConfig& config, DType dtype, std::int64_t context,
                        std::int64_t tokens, std::int64_t batch = 1);

}  // namespace quern::bench
