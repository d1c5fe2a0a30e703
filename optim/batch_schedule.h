// SPDX-License-Identifier: MIT
// The batch size as a function of the step alone.
#pragma once

#include <string>
#include <vector>

#include "quern/autograd/kernels/types.h"

namespace quern {

// start_sequences per step at first, growing linearly with the tokens seen before the step until
// final_sequences once rampup_tokens are seen (DeepSeek-V2: 2304 to 9216 over 225e9), rounded down
// to a multiple of `multiple`. rampup_tokens = 0: final_sequences from the first step on.
struct BatchScheduleOptions {
  i64 start_sequences = 1;
  i64 final_sequences = 1;
  i64 rampup_tokens = 0;
  i64 multiple = 1;  // start_sequences and final_sequences are multiples of it
  i64 seq = 1;       // tokens of a sequence
};

class BatchSchedule {
 public:
  // Consecutive steps of one batch size.
  struct Stage {
    i64 first_step = 0;
    i64 first_sample = 0;  // sequences of all steps before
    i64 sequences = 0;     // of each step
  };

  // Throws ConfigError where a number makes no sense.
  explicit BatchSchedule(const BatchScheduleOptions& options);

  i64 sequences(i64 step) const { return stage(step).sequences; }
  // The global number of the step's first sequence.
  i64 first_sample(i64 step) const;
  // The whole schedule; the last stage does not end.
  const std::vector<Stage>& stages() const { return stages_; }
  // One line per stage, "from step 120: 2368 sequences of 4096 tokens (first sample 276480)".
  std::string str() const;

 private:
  const Stage& stage(i64 step) const;

  std::vector<Stage> stages_;
  i64 seq_;
};

}  // namespace quern
