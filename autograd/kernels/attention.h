// SPDX-License-Identifier: MIT
// Causal attention whose keys have a per-head part and a rotary part shared by all heads (MLA).
// Works in blocks of queries, so memory grows linearly with the sequence.
#pragma once

#include "quern/autograd/kernels/types.h"

namespace quern::kernels {

// score[i, j] = scale * (q_nope[i] . k_nope[j] + q_rope[i] . k_rope[j]),  first_key[i] <= j <= i
// out[i] = sum_j softmax_j(score[i]) v[j]
//   q: [batch, seq, heads, nope + rope]   kv: [batch, seq, heads, nope + value] (k_nope, then v)
//   k_rope: [batch, seq, rope]            out: [batch, seq, heads, value]
//   first_key: [batch, seq], the first position of a query's own document; null counts as zeros
//   log_sum_exp: [batch, heads, seq], of the scaled scores, kept for backward
// All but batch and seq of q, kv and out are packed; rows follow each other.
template <class T>
struct Attention {
  i64 batch, seq, heads, nope, rope, value;
  double scale;
  const T* q;
  const T* kv;
  const T* k_rope;
  const i32* first_key;
  T* out;
  T* log_sum_exp;
};

// Gradients of q, kv and k_rope, each overwritten or added to. dk_rope is the sum over heads, in
// order, through `dk_rope_heads`: [heads, batch, seq, rope] scratch.
template <class T>
struct AttentionBackward {
  Attention<T> forward;  // with out and log_sum_exp as they were computed
  const T* dout;
  T* dq;
  bool add_dq;
  T* dkv;
  bool add_dkv;
  T* dk_rope;
  bool add_dk_rope;
  T* dk_rope_heads;
};

template <class T>
void attention(const Attention<T>& args);
template <class T>
void attention_backward(const AttentionBackward<T>& args);

}  // namespace quern::kernels
