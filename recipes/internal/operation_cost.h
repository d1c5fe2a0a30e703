// SPDX-License-Identifier: MIT
// What an operation of a tape computes and moves, from the shapes of what it reads and makes.
#pragma once

#include <span>
#include <string_view>

#include "quern/autograd/tape.h"

namespace quern::internal {

struct Cost {
  double flops = 0;  // of matrix products and attention, two for each multiply-add; of others none
  double bytes = 0;  // operands read and results written, once each; what an operation makes and
                     // drops on the way, and gradients that are added to, are not counted
};

struct OperationCost {
  Cost forward, backward;
};

// Causal attention counts the pairs of tokens that may see each other in one document, experts the
// rows of all choices. What gives gradients on the way, as the loss of the head does, has them in
// `forward`. No cost: what hands on the memory of an input, or runs other operations.
OperationCost cost_of(std::string_view op, std::span<const Var> inputs,
                      std::span<const Var> outputs, bool recorded);

}  // namespace quern::internal
