// SPDX-License-Identifier: MIT
// Normalisation of rows.
#pragma once

#include "quern/autograd/tape.h"

namespace quern::ops {

// weight * x / sqrt(mean(x^2) + eps) over the last extent.   x: [rows, width];  weight: [width]
// out: the type of the result, that of x or bf16.
Var rms_norm(Tape& tape, const Var& x, const Var& weight, double eps, DType out);
inline Var rms_norm(Tape& tape, const Var& x, const Var& weight, double eps) {
  return rms_norm(tape, x, weight, eps, x.dtype());
}

// softmax over the last extent.   x: [rows, width]
Var softmax(Tape& tape, const Var& x);

// x divided by its row's sum (plus 1e-20), which is not to be 0.   x: [rows, width]
Var share_of_row(Tape& tape, const Var& x);

}  // namespace quern::ops
