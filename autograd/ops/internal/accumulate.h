// SPDX-License-Identifier: MIT
// Adds a gradient to its target, or copies it there.
#pragma once

#include "quern/autograd/tape.h"

namespace quern::ops {

void accumulate(const Tensor& gradient, const GradTarget& target);
// The same of factor * stored.
void add_scaled(const Tensor& stored, double factor, const GradTarget& target);

}  // namespace quern::ops
