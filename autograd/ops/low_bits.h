// SPDX-License-Identifier: MIT
// What numbers of few bits do to a model that is trained with them, or runs with them.
#pragma once

#include "quern/autograd/tape.h"

namespace quern::ops {

// `y` in place of x, with the gradient passed to x as it is: the straight-through estimator
// (arXiv:1308.3432) where y is x rounded.   x, y: of one shape and type
Var straight_through(Tape& tape, const Var& x, const Tensor& y);

// x, with its gradient rounded to E4M3 in blocks of 1 x 128 (see kernels/low_bits.h).
// x: [rows, columns]
Var e4m3_gradient(Tape& tape, const Var& x);

// Each row packed into integers of `bits` bits in groups, and unpacked again; of the type of x.
// x: [rows, width]
Tensor packed_and_unpacked(const Tensor& x, i64 bits, i64 group);

// Rounded to bf16, of the type of x.
Tensor through_bf16(const Tensor& x);

// Rounded to E4M3 in blocks, matrix by matrix; of the type of x.   x: [rows, columns] or
// [matrices, rows, columns]
Tensor through_e4m3(const Tensor& x, i64 block_rows, i64 block_columns);

}  // namespace quern::ops
