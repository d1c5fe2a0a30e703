// SPDX-License-Identifier: MIT
// Causal attention of several heads: keys and values of their own, shared by groups of query heads,
// or rebuilt from a latent with a rotary part of the key shared by all heads.
#pragma once

#include "quern/autograd/tape.h"

namespace quern::ops {

// In both, `operands` is the type in which products read q, keys, values and probabilities, in
// which they are kept, and that of the result: that of q, or bf16. first_key: i32 [batch, seq],
// where a query's own document begins in its sequence, or nothing. They throw ShapeError where
// shapes do not fit or a first key is not in [0, i].

// out[i] = sum_j softmax_j(scale * q[i] . k[j]) v[j],  first_key[i] <= j <= i
//   q: [batch, seq, heads, dim]   k: [batch, seq, kv_heads, dim]   v: [batch, seq, kv_heads, value]
//   -> [batch, seq, heads * value]
// heads / kv_heads query heads in a row share a head of keys and values (GQA, arXiv:2305.13245,
// section 2.2). With as many of both this is multi-head attention (arXiv:1706.03762, section
// 3.2.2), with one head of keys multi-query attention (arXiv:1911.02150).
Var grouped_query_attention(Tape& tape, const Var& q, const Var& k, const Var& v,
                            const Tensor& first_key, double scale, DType operands);
inline Var grouped_query_attention(Tape& tape, const Var& q, const Var& k, const Var& v,
                                   const Tensor& first_key, double scale) {
  return grouped_query_attention(tape, q, k, v, first_key, scale, q.dtype());
}

// The same with keys (k_nope[j]; k_rope[j]) whose second part all heads share (DeepSeek-V2,
// arXiv:2405.04434, eqs. 16-18).
//   q: [batch, seq, heads, nope + rope]   kv: [batch, seq, heads, nope + value]: k_nope, then v
//   k_rope: [batch, seq, rope]            -> [batch, seq, heads * value]
Var mla_attention(Tape& tape, const Var& q, const Var& kv, const Var& k_rope,
                  const Tensor& first_key, double scale, DType operands);
inline Var mla_attention(Tape& tape, const Var& q, const Var& kv, const Var& k_rope,
                         const Tensor& first_key, double scale) {
  return mla_attention(tape, q, kv, k_rope, first_key, scale, q.dtype());
}

}  // namespace quern::ops
