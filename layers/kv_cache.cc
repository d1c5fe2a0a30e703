// SPDX-License-Identifier: MIT
#include "quern/layers/kv_cache.h"

#include <algorithm>

#include "quern/autograd/kernels/parallel.h"
#include "quern/layers/attention_shape.h"

namespace quern {
namespace {

constexpr i64 kRows = 64;

KvCache::Layer mla_layer(const ModelConfig& c, i64 sequences, i64 max, DType dtype) {
  KvCache::Layer layer;
  layer.sums = dtype;
  if (c.latent_bits == 0) {
    layer.latent = Tensor::zeros({sequences, max, c.kv_lora_rank}, dtype);
    layer.k_rope = Tensor::zeros({sequences, max, c.qk_rope_head_dim}, dtype);
    return layer;
  }
  layer.form = {c.kv_lora_rank, c.latent_bits, c.latent_group_size};
  layer.packed.resize(size_t(sequences * max * layer.form.bytes()));
  layer.k_rope = Tensor::zeros({sequences, max, c.qk_rope_head_dim}, DType::bf16);
  return layer;
}

// Of f32, f64 or bf16, in another of these types.
Tensor converted(const Tensor& x, DType dtype) {
  if (x.dtype() == dtype) return x;
  return x.dtype() == DType::f32 ? x.cast(dtype) : x.cast(DType::f32).cast(dtype);
}

}  // namespace

KvCache::KvCache(const ModelConfig& config, i64 max, DType dtype, i64 sequences)
    : max_tokens(max), tokens(size_t(sequences), 0) {
  dtype = sum_type(dtype);
  const HeadShape s = head_shape(config);
  for (i64 i = 0; i < config.num_hidden_layers; ++i) {
    if (config.attention == "mla") {
      layers.push_back(mla_layer(config, sequences, max, dtype));
    } else if (config.attention == "slots") {
      layers.emplace_back();
    } else {
      layers.push_back({.keys = Tensor::zeros({sequences, max, s.kv_heads, s.key}, dtype),
                        .values = Tensor::zeros({sequences, max, s.kv_heads, s.value}, dtype)});
    }
  }
}

void KvCache::Layer::keep(const ops::NewTokens& at, const Tensor& new_latent,
                          const Tensor& new_k_rope) {
  ops::put_rows(k_rope, at, converted(new_k_rope, k_rope.dtype()));
  if (latent.defined()) return ops::put_rows(latent, at, converted(new_latent, sums));
  const Tensor rows = converted(new_latent, sums);
  const kernels::CachePlaces places = ops::places_in(k_rope, at);
  for_float_type(rows, [&]<class T>() {
    parallel_chunks(places.tokens, kRows, [&](i64 first, i64 last) {
      for (i64 t = first; t < last; ++t) {
        const i64 row = places.sequence[t] * places.max_tokens + places.position[t];
        kernels::pack(form, rows.data<T>() + t * form.width, &packed[size_t(row * form.bytes())]);
      }
    });
  });
}

KvCache::Kept KvCache::Layer::kept(const ops::NewTokens& at) const {
  if (latent.defined()) return {latent, k_rope};
  const kernels::CachePlaces places = ops::places_in(k_rope, at);
  const i64 sequences = k_rope.dim(0);
  std::vector<i64> filled(size_t(sequences), 0);  // of those that are asked for
  for (i64 t = 0; t < places.tokens; ++t) {
    i64& length = filled[size_t(places.sequence[t])];
    length = std::max<i64>(length, places.position[t] + 1);
  }
  const i64 longest = *std::ranges::max_element(filled), rope = k_rope.dim(2);
  const Kept out{Tensor::zeros({sequences, longest, form.width}, sums),
                 Tensor::zeros({sequences, longest, rope}, sums)};
  for (i64 s = 0; s < sequences; ++s) {
    const i64 count = filled[size_t(s)];
    if (count == 0) continue;
    const i64 from = s * places.max_tokens;
    out.k_rope.view(s * longest * rope, {count, rope})
        .copy_from(converted(k_rope.view(from * rope, {count, rope}), sums));
    const Tensor rows = out.latent.view(s * longest * form.width, {count, form.width});
    for_float_type(rows, [&]<class T>() {
      parallel_chunks(count, kRows, [&](i64 first, i64 last) {
        for (i64 r = first; r < last; ++r) {
          kernels::unpack(form, &packed[size_t((from + r) * form.bytes())],
                          rows.data<T>() + r * form.width);
        }
      });
    });
  }
  return out;
}

}  // namespace quern
