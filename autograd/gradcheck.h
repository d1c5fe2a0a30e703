// SPDX-License-Identifier: MIT
// Compares a backward with central differences, in double precision. Installed: users write ops
// too.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "quern/autograd/tape.h"

namespace quern {

struct GradcheckReport {
  double worst = 0;    // largest |analytic - numeric| over the larger of both, per input tensor
  std::string detail;  // input, element and both values at the worst place
};

// f builds any output from the inputs, which must be f64 tensors. The output is reduced to a scalar
// with fixed random weights, so that every element of the Jacobian is seen. `step` is the
// difference on both sides, relative to max(1, |x|).
GradcheckReport gradcheck(const std::function<Var(Tape&, std::vector<Var>&)>& f,
                          const std::vector<Tensor>& inputs, double step = 1e-5);

// The same for parameters, with f a scalar function of them: their gradients against differences
// along `directions` random directions each (whole layers have too many elements to try one by
// one).
GradcheckReport gradcheck_parameters(const std::function<Var(Tape&)>& f,
                                     const std::vector<Parameter*>& parameters, int directions = 2,
                                     double step = 1e-5);

}  // namespace quern
