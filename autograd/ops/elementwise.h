// SPDX-License-Identifier: MIT
// Sums and products of elements.
#pragma once

#include "quern/autograd/tape.h"

namespace quern::ops {

// a + b, of equal shapes.
Var add(Tape& tape, const Var& a, const Var& b);
// a * b, element by element, of equal shapes.
Var mul(Tape& tape, const Var& a, const Var& b);
// factor * x.
Var scale(Tape& tape, const Var& x, double factor);
// x of f32 or bf16 in the other of these types; the gradient, f32 for both, passes unchanged.
Var cast(Tape& tape, const Var& x, DType dtype);
// The sum of all elements, a scalar; in index order.
Var sum(Tape& tape, const Var& x);
// 1 / (1 + exp(-x)).
Var sigmoid(Tape& tape, const Var& x);
// silu(gate) * up.   gate_up: [rows, 2 * width], gate first  ->  [rows, width]
// out: the type of the result; with bf16, what is kept for backward is bf16 too.
Var swiglu(Tape& tape, const Var& gate_up, DType out);
inline Var swiglu(Tape& tape, const Var& gate_up) { return swiglu(tape, gate_up, gate_up.dtype()); }

}  // namespace quern::ops
