// SPDX-License-Identifier: MIT
// Causal multi-head attention with the rotary part of the key shared by all heads (DeepSeek-V2,
// arXiv:2405.04434, eqs. 16-18).
#pragma once

#include "quern/autograd/tape.h"

namespace quern::ops {

// out[i] = sum_j softmax_j(scale * q[i] . (k_nope[j]; k_rope[j])) v[j],  first_key[i] <= j <= i
//   q: [batch, seq, heads, nope + rope]   kv: [batch, seq, heads, nope + value]: k_nope, then v
//   k_rope: [batch, seq, rope]            -> [batch, seq, heads * value]
// first_key: i32 [batch, seq], where a query's own document begins in its sequence, or nothing.
// Throws ShapeError where these do not fit or a first key is not in [0, i].
Var mla_attention(Tape& tape, const Var& q, const Var& kv, const Var& k_rope,
                  const Tensor& first_key, double scale);

}  // namespace quern::ops
