// SPDX-License-Identifier: MIT
// Attention of a few new tokens, the last of `total`, over cached rows of all of them.
#pragma once

#include "quern/autograd/kernels/types.h"

namespace quern::kernels {

// With keys and values rebuilt from latents by kv_b, whose halves are absorbed into the query and
// the output.
//   q: [tokens, heads, nope + rope]   latent: [total, rank]   k_rope: [total, rope]
//   kv_b: [heads, nope + value, rank], or kv_b_bf16   out: [tokens, heads, value]
template <class T>
struct MlaDecode {
  i64 tokens, heads, nope, rope, value, rank, total;
  double scale;
  const T *q, *latent, *k_rope, *kv_b;
  const bf16* kv_b_bf16;
  T* out;
};

//   q: [tokens, heads, dim]   k: [total, kv_heads, dim]   v: [total, kv_heads, value]
//   out: [tokens, heads, value]
template <class T>
struct GroupedQueryDecode {
  i64 tokens, heads, kv_heads, dim, value, total;
  double scale;
  const T *q, *k, *v;
  T* out;
};

template <class T>
void mla_decode(const MlaDecode<T>& args);
template <class T>
void grouped_query_decode(const GroupedQueryDecode<T>& args);

}  // namespace quern::kernels
