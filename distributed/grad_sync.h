// SPDX-License-Identifier: MIT
// Gradients summed over ranks.
#pragma once

#include "quern/autograd/parameter.h"
#include "quern/distributed/communicator.h"

namespace quern {

// Parameter::grad becomes the sum over the ranks of a group, in the order of Communicator::sum(); a
// gradient that nobody wrote counts as zero. Every rank gives parameters of the same shapes.
void sum_gradients(std::span<Parameter* const> parameters, const Communicator& group);

// The gradient of the first becomes the sum of all, of one shape, in the order in which
// Communicator::sum() adds as many ranks.
void sum_into_first(std::span<Parameter* const> parameters);

}  // namespace quern
