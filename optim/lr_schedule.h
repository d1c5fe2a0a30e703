// SPDX-License-Identifier: MIT
// The learning rate as a function of the step alone.
#pragma once

#include <string>
#include <vector>

#include "quern/autograd/kernels/types.h"

namespace quern {

enum class LrKind { constant, cosine, wsd, multistep };

const char* name_of(LrKind kind);

// From the step nearest to `fraction` of total_steps on, the rate is multiplied by `factor`.
struct LrDrop {
  double fraction = 0;
  double factor = 1;
};

// Steps count from 0. Warm-up is linear, peak * (step + 1) / (warmup_steps + 1), so that the first
// step moves and step warmup_steps has the peak rate. Then, with x = the step's place between
// `from` (0) and total_steps (1):
//   constant    peak
//   cosine      from warmup_steps: peak * (r + (1 - r) (1 + cos(pi x)) / 2)     r = min_lr_ratio
//   wsd         peak until the last decay_fraction of the steps, then peak * (1 - (1 - r) x)
//   multistep   peak * the factors of the drops passed (default: DeepSeek's, at 80 % and 90 %)
// x = 1 belongs to the step after the last, so a run that decays to zero wastes none; rates stay
// there if a run goes on.
struct LrSchedule {
  LrKind kind = LrKind::cosine;
  double peak_lr = 4.2e-4;
  i64 warmup_steps = 0;
  i64 total_steps = 0;
  double min_lr_ratio = 0.1;                                 // cosine, wsd
  double decay_fraction = 0.2;                               // wsd
  std::vector<LrDrop> drops = {{0.8, 0.316}, {0.9, 0.316}};  // multistep

  // Throws ConfigError where a number makes no sense.
  void validate() const;
  double lr(i64 step) const;
};

}  // namespace quern
