// SPDX-License-Identifier: MIT
#include "quern/layers/kv_cache.h"

#include "quern/layers/attention_shape.h"

namespace quern {

KvCache::KvCache(const ModelConfig& config, i64 max, DType dtype) : max_tokens(max) {
  dtype = sum_type(dtype);
  const auto empty = [&](i64 width) { return Tensor::zeros({max, width}, dtype); };
  const HeadShape s = head_shape(config);
  for (i64 i = 0; i < config.num_hidden_layers; ++i) {
    if (config.attention == "mla") {
      layers.push_back({.latent = empty(config.kv_lora_rank), .k_rope = empty(s.rope)});
    } else {
      layers.push_back({.keys = empty(s.kv_heads * s.key), .values = empty(s.kv_heads * s.value)});
    }
  }
}

}  // namespace quern
