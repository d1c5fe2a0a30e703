// SPDX-License-Identifier: MIT
// Short measurements: how fast this machine multiplies, how long a step takes.
#pragma once

#include <cstddef>
#include <memory>

#include "quern/data/sampler.h"
#include "quern/recipes/recipe.h"

namespace quern {

// FLOP/s of a 2048 x 512 x 2048 product of f32, or of bf16 operands, with the kernels and threads
// in use: the best of a few, about a tenth of a second.
double measure_product_rate(DType dtype = DType::f32);

// Bytes per second that c = a + 3 b reads and writes, over arrays of 64 MB, with the threads in
// use: the best of a few, at most about half a second.
double measure_memory_bandwidth();

struct StepProbe {
  double seconds_per_step = 0;   // median of a few steps
  std::size_t memory_bytes = 0;  // resident, with the step's memory in use
};

// Takes a few steps with a model that is then thrown away; at most about `seconds` long.
StepProbe probe_step(const Recipe& recipe, std::shared_ptr<const Sampler> sampler,
                     double seconds = 8);

// The steps that fill train.target_minutes, from a probe, and a warm-up that fits them: schedules
// count steps, never time. Says on stdout what it found.
// With several ranks each takes its part of a step, which is what is tried here.
void choose_steps(Recipe& recipe, std::shared_ptr<const Sampler> sampler, i64 ranks = 1);

// Resident memory of this process, in bytes.
std::size_t resident_bytes();

// Applies recipe.train.threads (0: its share of the cores this process may use, all with one rank).
// Throws ConfigError when there are too many.
void use_threads(i64 threads);

}  // namespace quern
