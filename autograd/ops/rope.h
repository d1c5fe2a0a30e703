// SPDX-License-Identifier: MIT
// Rotary position embedding of the last columns of each head.
#pragma once

#include "quern/autograd/tape.h"

namespace quern::ops {

// Rotates adjacent pairs of the last `2 * cos.dim(1)` columns of every head by the angle of the
// row's position; the other columns pass through (RoFormer, arXiv:2104.09864, eq. 34). x: [tokens,
// heads, head_dim];  cos, sin: [positions, dim / 2];  positions: i32 [tokens]
Var rope(Tape& tape, const Var& x, const Tensor& cos, const Tensor& sin, const Tensor& positions);

}  // namespace quern::ops
