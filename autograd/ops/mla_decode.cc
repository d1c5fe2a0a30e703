// SPDX-License-Identifier: MIT
#include "quern/autograd/ops/mla_decode.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "quern/autograd/kernels/parallel.h"
#include "quern/autograd/ops/checks.h"

namespace quern::ops {
namespace {

template <class T>
struct Head {
  i64 nope, rope, value, rank, keys;
  const T* q;       // [nope + rope]
  const T* latent;  // [keys, rank]
  const T* k_rope;  // [keys, rope]
  const T* kv_b;    // [nope + value, rank]
  T scale;
  T* out;  // [value]
};

template <class T>
T dot(const T* a, const T* b, i64 n) {
  T sum = 0;
  for (i64 i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

template <class T>
void attend(const Head<T>& h) {
  std::vector<T> query(size_t(h.rank), T(0)), mix(size_t(h.rank), T(0)), p(size_t(h.keys));
  for (i64 i = 0; i < h.nope; ++i) {
    for (i64 r = 0; r < h.rank; ++r) query[size_t(r)] += h.q[i] * h.kv_b[i * h.rank + r];
  }
  for (i64 j = 0; j < h.keys; ++j) {
    p[size_t(j)] = h.scale * (dot(query.data(), h.latent + j * h.rank, h.rank) +
                              dot(h.q + h.nope, h.k_rope + j * h.rope, h.rope));
  }
  const T largest = *std::max_element(p.begin(), p.end());
  T sum = 0;
  for (T& v : p) sum += v = std::exp(v - largest);
  for (i64 j = 0; j < h.keys; ++j) {
    const T weight = p[size_t(j)] / sum;
    for (i64 r = 0; r < h.rank; ++r) mix[size_t(r)] += weight * h.latent[j * h.rank + r];
  }
  for (i64 v = 0; v < h.value; ++v) {
    h.out[v] = dot(h.kv_b + (h.nope + v) * h.rank, mix.data(), h.rank);
  }
}

}  // namespace

Tensor mla_decode(const Tensor& q, const Tensor& latent, const Tensor& k_rope, const Tensor& kv_b,
                  i64 nope, i64 value, double scale) {
  const i64 tokens = q.dim(0), heads = q.dim(1), rope = q.dim(2) - nope, rank = latent.dim(1),
            total = latent.dim(0);
  expect_shape("mla_decode", "k_rope", k_rope, {total, rope});
  expect_shape("mla_decode", "kv_b", kv_b, {heads * (nope + value), rank});
  const Tensor out = Tensor::empty({tokens, heads * value}, q.dtype());
  for_float_type(q, [&]<class T>() {
    parallel_for(tokens * heads, [&](i64 i) {
      const i64 t = i / heads, h = i % heads;
      attend<T>({nope, rope, value, rank, total - tokens + t + 1, q.data<T>() + i * (nope + rope),
                 latent.data<T>(), k_rope.data<T>(), kv_b.data<T>() + h * (nope + value) * rank,
                 T(scale), out.data<T>() + i * value});
    });
  });
  return out;
}

}  // namespace quern::ops
