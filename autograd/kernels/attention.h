// SPDX-License-Identifier: MIT
// Causal attention of groups of query heads that share a head of keys and values, and whose keys
// may have a rotary part shared by all heads: MHA, GQA, MQA and MLA. Works in blocks of queries, so
// memory grows linearly with the sequence.
#pragma once

#include "quern/autograd/kernels/types.h"

namespace quern::kernels {

// Rows of several heads among other columns: that of one head at one token begins at
// data + token * token_step + head * head_step.
template <class T>
struct HeadRows {
  T* data;
  i64 token_step, head_step;
};

// score[i, j] = scale * q[i] . (k[j]; k_rope[j]),  first_key[i] <= j <= i
// out[i] = sum_j softmax_j(score[i]) v[j]
//   q: [batch, seq, heads, nope + rope]   k: [batch, seq, kv_heads, nope]
//   k_rope: [batch, seq, rope]            v: [batch, seq, kv_heads, value]
//   out: [batch, seq, heads, value]       query head h reads head h / (heads / kv_heads) of k and v
//   first_key: [batch, seq], the first position of a query's own document; null counts as zeros
//   log_sum_exp: [batch, heads, seq], of the scaled scores, kept for backward
// q, k_rope and out are packed. With T = bf16 that is what products read, sums are f32.
template <class T>
struct Attention {
  i64 batch, seq, heads, kv_heads, nope, rope, value;
  double scale;
  const T* q;
  HeadRows<const T> k, v;
  const T* k_rope;
  const i32* first_key;
  T* out;
  Sum<T>* log_sum_exp;
};

// Gradients of q, k, v and k_rope, each overwritten or added to; those of k and v lie as k and v
// do. dk_rope is the sum over kv_heads, in order, through `dk_rope_heads`: [kv_heads, batch, seq,
// rope] scratch.
template <class T>
struct AttentionBackward {
  Attention<T> forward;  // with out and log_sum_exp as they were computed
  const Sum<T>* dout;
  Sum<T>* dq;
  bool add_dq;
  Sum<T>* dk;
  bool add_dk;
  Sum<T>* dv;
  bool add_dv;
  Sum<T>* dk_rope;
  bool add_dk_rope;
  Sum<T>* dk_rope_heads;
};

template <class T>
void attention(const Attention<T>& args);
template <class T>
void attention_backward(const AttentionBackward<T>& args);

}  // namespace quern::kernels
