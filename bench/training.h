// SPDX-License-Identifier: MIT
// Training on random tokens with the phases of a step timed apart. The step is Trainer::step
// without a recipe; the trainer's own has no place for a clock between forward and backward.
#pragma once

#include <vector>

#include "quern/data/batch.h"
#include "quern/layers/model.h"
#include "quern/optim/adamw.h"

namespace quern::bench {

struct TrainingOptions {
  i64 sequence_length = 256;
  i64 batch_sequences = 16;
  i64 micro_batch_sequences = 16;  // a divisor of batch_sequences
  std::uint64_t seed = 1;
  DType dtype = DType::f32;  // or bf16: mixed precision
};

// Seconds by phase; the loss and its gradient at the head belong to forward, as in the peer.
struct StepTimes {
  double forward = 0, backward = 0, optimizer = 0;
  double loss = 0;  // nats per token
  double total() const { return forward + backward + optimizer; }
};

// Four batches of uniform random tokens in rotation; AdamW at a constant 3e-4, everything decayed,
// gradients clipped to norm 1.
class Training {
 public:
  Training(const ModelConfig& config, const TrainingOptions& options);

  // Throws NumericalError when the loss is not finite.
  StepTimes step();

  i64 tokens_per_step() const { return options_.batch_sequences * options_.sequence_length; }
  i64 max_tokens_per_expert() const { return max_load_; }  // of the last step; 0: no experts

 private:
  void run_micro_batch(const Batch& batch, i64 first, StepTimes& times);

  TrainingOptions options_;
  Model model_;
  std::vector<Parameter*> parameters_;
  AdamW optimizer_;
  std::vector<Batch> batches_;
  size_t steps_ = 0;
  std::vector<std::vector<i64>> load_;  // [layers][experts]
  i64 max_load_ = 0;
};

}  // namespace quern::bench
