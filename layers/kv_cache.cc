// SPDX-License-Identifier: MIT
#include "quern/layers/kv_cache.h"

#include "quern/autograd/kernels/parallel.h"
#include "quern/layers/attention_shape.h"

namespace quern {
namespace {

constexpr i64 kRows = 64;

KvCache::Layer mla_layer(const ModelConfig& c, i64 max, DType dtype) {
  KvCache::Layer layer;
  layer.sums = dtype;
  if (c.latent_bits == 0) {
    layer.latent = Tensor::zeros({max, c.kv_lora_rank}, dtype);
    layer.k_rope = Tensor::zeros({max, c.qk_rope_head_dim}, dtype);
    return layer;
  }
  layer.form = {c.kv_lora_rank, c.latent_bits, c.latent_group_size};
  layer.packed.resize(size_t(max * layer.form.bytes()));
  layer.k_rope = Tensor::zeros({max, c.qk_rope_head_dim}, DType::bf16);
  return layer;
}

// Of f32, f64 or bf16, in another of these types.
Tensor converted(const Tensor& x, DType dtype) {
  if (x.dtype() == dtype) return x;
  return x.dtype() == DType::f32 ? x.cast(dtype) : x.cast(DType::f32).cast(dtype);
}

}  // namespace

KvCache::KvCache(const ModelConfig& config, i64 max, DType dtype) : max_tokens(max) {
  dtype = sum_type(dtype);
  const HeadShape s = head_shape(config);
  for (i64 i = 0; i < config.num_hidden_layers; ++i) {
    if (config.attention == "mla") {
      layers.push_back(mla_layer(config, max, dtype));
    } else if (config.attention == "slots") {
      layers.emplace_back();
    } else {
      layers.push_back({.keys = Tensor::zeros({max, s.kv_heads * s.key}, dtype),
                        .values = Tensor::zeros({max, s.kv_heads * s.value}, dtype)});
    }
  }
}

void KvCache::Layer::keep(i64 past, const Tensor& new_latent, const Tensor& new_k_rope) {
  const i64 end = past + new_latent.dim(0);
  k_rope.rows(past, end).copy_from(converted(new_k_rope, k_rope.dtype()));
  if (latent.defined()) return latent.rows(past, end).copy_from(converted(new_latent, sums));
  const Tensor rows = converted(new_latent, sums);
  for_float_type(rows, [&]<class T>() {
    parallel_chunks(end - past, kRows, [&](i64 first, i64 last) {
      for (i64 r = first; r < last; ++r) {
        kernels::pack(form, rows.data<T>() + r * form.width,
                      &packed[size_t((past + r) * form.bytes())]);
      }
    });
  });
}

KvCache::Kept KvCache::Layer::kept(i64 count) const {
  if (latent.defined()) return {latent.rows(0, count), k_rope.rows(0, count)};
  const Tensor rows = Tensor::empty({count, form.width}, sums);
  for_float_type(rows, [&]<class T>() {
    parallel_chunks(count, kRows, [&](i64 first, i64 last) {
      for (i64 r = first; r < last; ++r) {
        kernels::unpack(form, &packed[size_t(r * form.bytes())], rows.data<T>() + r * form.width);
      }
    });
  });
  return {rows, converted(k_rope.rows(0, count), sums)};
}

}  // namespace quern
