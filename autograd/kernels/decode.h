// SPDX-License-Identifier: MIT
// Attention of new tokens over cached rows of their sequences.
#pragma once

#include "quern/autograd/kernels/types.h"

namespace quern::kernels {

// Where new tokens lie in a cache [sequences, max_tokens, ...], their own rows included: token t at
// position[t] of sequence[t], whose rows before it are filled. It attends to them and to itself.
struct CachePlaces {
  i64 tokens, max_tokens;
  const i32 *sequence, *position;
};

// With keys and values rebuilt from latents by kv_b, whose halves are absorbed into the query and
// the output.
//   q: [tokens, heads, nope + rope]   latent, k_rope: [sequences, max_tokens, rank or rope]
//   kv_b: [heads, nope + value, rank], or kv_b_bf16   out: [tokens, heads, value]
template <class T>
struct MlaDecode {
  CachePlaces places;
  i64 heads, nope, rope, value, rank;
  double scale;
  const T *q, *latent, *k_rope, *kv_b;
  const bf16* kv_b_bf16;
  T* out;
};

//   q: [tokens, heads, dim]   k, v: [sequences, max_tokens, kv_heads, dim or value]
//   out: [tokens, heads, value]
template <class T>
struct GroupedQueryDecode {
  CachePlaces places;
  i64 heads, kv_heads, dim, value;
  double scale;
  const T *q, *k, *v;
  T* out;
};

template <class T>
void mla_decode(const MlaDecode<T>& args);
template <class T>
void grouped_query_decode(const GroupedQueryDecode<T>& args);

}  // namespace quern::kernels
