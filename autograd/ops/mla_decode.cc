// SPDX-License-Identifier: MIT
#include "quern/autograd/ops/mla_decode.h"

#include "quern/autograd/ops/checks.h"

namespace quern::ops {

Tensor mla_decode(const Tensor& q, const NewTokens& at, const Tensor& latent, const Tensor& k_rope,
                  const Tensor& kv_b, i64 nope, i64 value, double scale) {
  const i64 tokens = q.dim(0), heads = q.dim(1), rope = q.dim(2) - nope, rank = latent.dim(2);
  const kernels::CachePlaces places = places_in(latent, at);
  expect_shape("mla_decode", "positions", at.positions, {tokens});
  expect_shape("mla_decode", "k_rope", k_rope, {latent.dim(0), latent.dim(1), rope});
  expect_shape("mla_decode", "kv_b", kv_b, {heads * (nope + value), rank});
  const Tensor out = Tensor::empty({tokens, heads * value}, q.dtype());
  const bool rounded = kv_b.dtype() == DType::bf16;
  for_float_type(q, [&]<class T>() {
    kernels::mla_decode<T>({places, heads, nope, rope, value, rank, scale, q.data<T>(),
                            latent.data<T>(), k_rope.data<T>(), rounded ? nullptr : kv_b.data<T>(),
                            rounded ? kv_b.data<bf16>() : nullptr, out.data<T>()});
  });
  return out;
}

}  // namespace quern::ops
