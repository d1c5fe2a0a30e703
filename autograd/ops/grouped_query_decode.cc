// SPDX-License-Identifier: MIT
#include "quern/autograd/ops/grouped_query_decode.h"

#include "quern/autograd/ops/checks.h"

namespace quern::ops {

Tensor grouped_query_decode(const Tensor& q, const NewTokens& at, const Tensor& k, const Tensor& v,
                            double scale) {
  const i64 tokens = q.dim(0), heads = q.dim(1), dim = q.dim(2), kv_heads = k.dim(2),
            value = v.dim(3);
  const kernels::CachePlaces places = places_in(k, at);
  expect_shape("grouped_query_decode", "positions", at.positions, {tokens});
  expect_shape("grouped_query_decode", "k", k, {k.dim(0), k.dim(1), kv_heads, dim});
  expect_shape("grouped_query_decode", "v", v, {k.dim(0), k.dim(1), kv_heads, value});
  const Tensor out = Tensor::empty({tokens, heads * value}, q.dtype());
  for_float_type(q, [&]<class T>() {
    kernels::grouped_query_decode<T>({places, heads, kv_heads, dim, value, scale, q.data<T>(),
                                      k.data<T>(), v.data<T>(), out.data<T>()});
  });
  return out;
}

}  // namespace quern::ops
