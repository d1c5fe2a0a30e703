// SPDX-License-Identifier: MIT
#include "quern/autograd/ops/grouped_query_decode.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "quern/autograd/kernels/parallel.h"
#include "quern/autograd/ops/checks.h"

namespace quern::ops {
namespace {

// One query; rows of keys and values are a step apart.
template <class T>
struct Query {
  i64 dim, value, keys, k_step, v_step;
  const T *q, *k, *v;
  T scale;
  T* out;  // [value]
};

template <class T>
void attend(const Query<T>& a) {
  std::vector<T> p(size_t(a.keys));
  for (i64 j = 0; j < a.keys; ++j) {
    T score = 0;
    for (i64 d = 0; d < a.dim; ++d) score += a.q[d] * a.k[j * a.k_step + d];
    p[size_t(j)] = a.scale * score;
  }
  const T largest = *std::max_element(p.begin(), p.end());
  T sum = 0;
  for (T& x : p) sum += x = std::exp(x - largest);
  std::fill_n(a.out, a.value, T(0));
  for (i64 j = 0; j < a.keys; ++j) {
    const T weight = p[size_t(j)] / sum;
    for (i64 d = 0; d < a.value; ++d) a.out[d] += weight * a.v[j * a.v_step + d];
  }
}

}  // namespace

Tensor grouped_query_decode(const Tensor& q, const Tensor& k, const Tensor& v, double scale) {
  const i64 tokens = q.dim(0), heads = q.dim(1), dim = q.dim(2), total = k.dim(0),
            kv_heads = k.dim(1), value = v.dim(2);
  expect_shape("grouped_query_decode", "k", k, {total, kv_heads, dim});
  expect_shape("grouped_query_decode", "v", v, {total, kv_heads, value});
  const Tensor out = Tensor::empty({tokens, heads * value}, q.dtype());
  for_float_type(q, [&]<class T>() {
    parallel_for(tokens * heads, [&](i64 i) {
      const i64 t = i / heads, kv_head = i % heads / (heads / kv_heads);
      attend<T>({dim, value, total - tokens + t + 1, kv_heads * dim, kv_heads * value,
                 q.data<T>() + i * dim, k.data<T>() + kv_head * dim, v.data<T>() + kv_head * value,
                 T(scale), out.data<T>() + i * value});
    });
  });
  return out;
}

}  // namespace quern::ops
