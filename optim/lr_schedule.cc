// SPDX-License-Identifier: MIT
#include "quern/optim/lr_schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "quern/autograd/error.h"

namespace quern {
namespace {

// The step that begins the part of the run after `fraction` of it.
i64 step_at(double fraction, i64 total_steps) { return std::llround(fraction * total_steps); }

// Where `step` lies between `from` (0) and `to` (1).
double progress(i64 step, i64 from, i64 to) {
  if (step >= to) return 1;
  return step <= from ? 0 : double(step - from) / double(to - from);
}

void require(bool holds, const char* key, const char* expected, double actual) {
  if (!holds) {
    throw ConfigError({.key = key, .expected = expected, .actual = std::to_string(actual)});
  }
}

}  // namespace

const char* name_of(LrKind kind) {
  switch (kind) {
    case LrKind::constant:
      return "constant";
    case LrKind::cosine:
      return "cosine";
    case LrKind::wsd:
      return "wsd";
    case LrKind::multistep:
      return "multistep";
  }
  return "?";
}

void LrSchedule::validate() const {
  const auto is_ratio = [](double x) { return x >= 0 && x <= 1; };
  require(peak_lr >= 0 && std::isfinite(peak_lr), "peak_lr", "a number not below 0", peak_lr);
  require(total_steps >= 0, "total_steps", "a number not below 0", double(total_steps));
  require(warmup_steps >= 0, "warmup_steps", "a number not below 0", double(warmup_steps));
  require(is_ratio(min_lr_ratio), "min_lr_ratio", "a number in [0, 1]", min_lr_ratio);
  require(is_ratio(decay_fraction), "decay_fraction", "a number in [0, 1]", decay_fraction);
  for (const LrDrop& drop : drops) {
    require(is_ratio(drop.fraction), "drops.fraction", "a number in [0, 1]", drop.fraction);
    require(drop.factor >= 0 && std::isfinite(drop.factor), "drops.factor", "a number not below 0",
            drop.factor);
  }
}

double LrSchedule::lr(i64 step) const {
  if (step < warmup_steps) return peak_lr * double(step + 1) / double(warmup_steps + 1);
  switch (kind) {
    case LrKind::constant:
      return peak_lr;
    case LrKind::cosine: {
      const double x = progress(step, warmup_steps, total_steps);
      return peak_lr *
             (min_lr_ratio + (1 - min_lr_ratio) * 0.5 * (1 + std::cos(std::numbers::pi * x)));
    }
    case LrKind::wsd: {
      const i64 from = std::max(warmup_steps, step_at(1 - decay_fraction, total_steps));
      return peak_lr * (1 - (1 - min_lr_ratio) * progress(step, from, total_steps));
    }
    case LrKind::multistep: {
      double lr = peak_lr;
      for (const LrDrop& drop : drops) {
        if (step >= step_at(drop.fraction, total_steps)) lr *= drop.factor;
      }
      return lr;
    }
  }
  return peak_lr;
}

}  // namespace quern
