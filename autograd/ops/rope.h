// SPDX-License-Identifier: MIT
// Rotary position embedding of the last columns of each head.
#pragma once

#include "quern/autograd/tape.h"

namespace quern::ops {

// Which columns make pair i of `dim`. Both give the same attention where queries and keys agree;
// weights trained with one are wrong with the other.
enum class RopePairs {
  adjacent,  // (2i, 2i + 1): the weights of DeepSeek-V2 and V3, and RoFormer itself
  halves,  // (i, i + dim / 2): the weights of Llama, Mixtral and DeepSeekMoE in Hugging Face's form
};

// Rotates pairs of the last `dim = 2 * cos.dim(1)` columns of every head by the angle of the row's
// position; the other columns pass through (RoFormer, arXiv:2104.09864, eq. 34).
//   x: [tokens, heads, head_dim];  cos, sin: [positions, dim / 2];  positions: i32 [tokens]
Var rope(Tape& tape, const Var& x, const Tensor& cos, const Tensor& sin, const Tensor& positions,
         RopePairs pairs = RopePairs::adjacent);

}  // namespace quern::ops
