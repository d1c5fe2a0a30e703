// SPDX-License-Identifier: MIT
// Products whose operands are rounded to E4M3, and the gradients that go into backward's products
// too (the numbers of DeepSeek-V3's FP8 training, arXiv:2412.19437, section 3.3, not its speed:
// sums are f32 or f64 as ever). Scales are powers of two; the gradient of a rounding is passed on.
#pragma once

#include <memory>
#include <vector>

#include "quern/autograd/tape.h"

namespace quern {

// Rounded in blocks of 1 x 128.   x: [rows, columns]
Var fp8_activations(Tape& tape, const Var& x);
// Rounded in blocks of 128 x 128 of matrices of so many rows, stacked or not.
Var fp8_weights(Tape& tape, const Var& w, i64 rows);

// ops::linear and ops::grouped_linear of rounded operands; w is rounded as matrices of `matrix`.
Var fp8_linear(Tape& tape, const Var& x, const Var& w, const Shape& matrix);
Var fp8_grouped_linear(Tape& tape, const Var& x, const Var& w, const Shape& matrix,
                       std::shared_ptr<const std::vector<i64>> offsets);

}  // namespace quern
