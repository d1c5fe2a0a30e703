// SPDX-License-Identifier: MIT
#include "quern/layers/kv_cache.h"

namespace quern {

KvCache::KvCache(const ModelConfig& config, i64 max, DType dtype) : max_tokens(max) {
  dtype = sum_type(dtype);
  for (i64 i = 0; i < config.num_hidden_layers; ++i) {
    layers.push_back({Tensor::zeros({max, config.kv_lora_rank}, dtype),
                      Tensor::zeros({max, config.qk_rope_head_dim}, dtype)});
  }
}

}  // namespace quern
