// SPDX-License-Identifier: MIT
// The norm of all gradients together, and the factor that keeps it within a bound.
#pragma once

#include <span>
#include <vector>

#include "quern/autograd/parameter.h"

namespace quern {

// The sum of squares of each parameter's gradient (zero where nobody wrote it), in f64. Each
// depends on that parameter alone, so ranks that share out parameters can gather and add them in
// one order.
std::vector<double> squared_norms(std::span<Parameter* const> parameters);

// The 2-norm over all gradients: squared norms added in order of parameters. The same bits for any
// number of threads; not finite if any gradient is not.
double global_norm(std::span<Parameter* const> parameters);

// min(1, max_norm / (norm + 1e-6)): what gradients of this global norm are to be multiplied by.
double clip_scale(double norm, double max_norm);

}  // namespace quern
