// SPDX-License-Identifier: MIT
// Finer experts for a model that is trained already, without a change of what it computes.
#pragma once

#include <cstdint>

#include "quern/layers/model.h"

namespace quern {

// The shape of a model whose routed experts are each cut into `parts` segments (the segmentation of
// DeepSeekMoE, arXiv:2401.06066, section 3.1, of a trained model): as many times the experts and
// the chosen ones, a fraction of the width, and weights scaled up by as much as they are split.
// Throws ConfigError where that would be another function: for routers whose choice or weights
// depend on more than an expert's own score.
ModelConfig resegmented(const ModelConfig& config, std::int64_t parts);

// Fills `to`, of shape resegmented(from.config, parts). An expert's hidden units are dealt out in
// order: SwiGLU is a sum over them. Each segment has its expert's gate row, so that all segments of
// a chosen expert are chosen, for copies are neighbours and ties go to the lowest index. With
// `noise`, the gate rows get normal noise of that share of their own root mean square, which lets
// segments part.
void resegment(Model& from, Model& to, std::int64_t parts, double noise, std::uint64_t seed);

}  // namespace quern
