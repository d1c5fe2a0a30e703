// SPDX-License-Identifier: MIT
// A model, a run and a machine in words, for --dry-run, `quern inspect` and the report.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "quern/autograd/kernels/types.h"
#include "quern/recipes/recipe.h"

namespace quern {

using Rows = std::vector<std::pair<std::string, std::string>>;  // what, value

Rows describe_model(const ModelConfig& config, i64 sequence_length);
Rows describe_environment();

// Bytes that training holds at once: parameters, gradients, moments and lane sums are exact,
// activations are estimated from the shapes.
struct MemoryEstimate {
  i64 parameters = 0, gradients = 0, moments = 0, lane_sums = 0, activations = 0;
  i64 total() const { return parameters + gradients + moments + lane_sums + activations; }
};
MemoryEstimate estimate_memory(const Recipe& recipe);

// "12.3 M", "214.8 M"; "1.4 GiB"; "1h02m", "3m10s", "8 s".
std::string with_unit(double number);
std::string bytes_text(double bytes);
std::string duration_text(double seconds);

}  // namespace quern
