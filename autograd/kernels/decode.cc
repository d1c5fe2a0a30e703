// SPDX-License-Identifier: MIT
// Compiled once for each tier; see internal/tier.h. A task is one head of one new token.
#include "quern/autograd/kernels/decode.h"

#include <Eigen/Core>

#include "quern/autograd/kernels/internal/row_loops.h"
#include "quern/autograd/kernels/parallel.h"

namespace quern::kernels::QUERN_TIER {
namespace {

template <class T>
using Array = Eigen::Array<T, Eigen::Dynamic, 1>;

// Row r of a head's part of kv_b; `buffer` holds what is not of type T.
template <class T>
const T* kv_b_row(const MlaDecode<T>& a, i64 r, T* buffer) {
  if (!a.kv_b_bf16) return a.kv_b + r * a.rank;
  for (i64 i = 0; i < a.rank; ++i) buffer[i] = T(float(a.kv_b_bf16[r * a.rank + i]));
  return buffer;
}

template <class T>
void softmax(Array<T>& p) {
  p = (p - p.maxCoeff()).exp();
  p *= T(1) / p.sum();
}

template <class T>
void attend(const MlaDecode<T>& a, i64 token, i64 head) {
  const i64 keys = a.places.position[token] + 1, first = head * (a.nope + a.value);
  const i64 start = a.places.sequence[token] * a.places.max_tokens;
  const T *latent = a.latent + start * a.rank, *k_rope = a.k_rope + start * a.rope;
  const T* q = a.q + (token * a.heads + head) * (a.nope + a.rope);
  Array<T> query = Array<T>::Zero(a.rank), mix = Array<T>::Zero(a.rank), p(keys), buffer(a.rank);
  for (i64 i = 0; i < a.nope; ++i) {
    add_row(q[i], kv_b_row(a, first + i, buffer.data()), query.data(), a.rank);
  }
  for (i64 j = 0; j < keys; ++j) {
    p[j] = T(a.scale) * (dot_rows<T>(query.data(), latent + j * a.rank, a.rank) +
                         dot_rows<T>(q + a.nope, k_rope + j * a.rope, a.rope));
  }
  softmax(p);
  for (i64 j = 0; j < keys; ++j) add_row(p[j], latent + j * a.rank, mix.data(), a.rank);
  T* out = a.out + (token * a.heads + head) * a.value;
  for (i64 v = 0; v < a.value; ++v) {
    out[v] = dot_rows<T>(kv_b_row(a, first + a.nope + v, buffer.data()), mix.data(), a.rank);
  }
}

template <class T>
void attend(const GroupedQueryDecode<T>& a, i64 token, i64 head) {
  const i64 keys = a.places.position[token] + 1, kv_head = head / (a.heads / a.kv_heads);
  const i64 start = a.places.sequence[token] * a.places.max_tokens * a.kv_heads;
  const T *k = a.k + start * a.dim, *v = a.v + start * a.value;
  const T* q = a.q + (token * a.heads + head) * a.dim;
  T* out = a.out + (token * a.heads + head) * a.value;
  Array<T> p(keys);
  for (i64 j = 0; j < keys; ++j) {
    p[j] = T(a.scale) * dot_rows<T>(q, k + (j * a.kv_heads + kv_head) * a.dim, a.dim);
  }
  softmax(p);
  for (i64 i = 0; i < a.value; ++i) out[i] = 0;
  for (i64 j = 0; j < keys; ++j) {
    add_row(p[j], v + (j * a.kv_heads + kv_head) * a.value, out, a.value);
  }
}

}  // namespace

template <class T>
void mla_decode(const MlaDecode<T>& a) {
  parallel_for(a.places.tokens * a.heads, [&](i64 i) { attend(a, i / a.heads, i % a.heads); });
}

template <class T>
void grouped_query_decode(const GroupedQueryDecode<T>& a) {
  parallel_for(a.places.tokens * a.heads, [&](i64 i) { attend(a, i / a.heads, i % a.heads); });
}

QUERN_DECODE_KERNELS(QUERN_INSTANTIATE)

}  // namespace quern::kernels::QUERN_TIER
