// SPDX-License-Identifier: MIT
// What attention remembers of past tokens while text is generated: one latent and one rotary key
// per token and layer (DeepSeek-V2, arXiv:2405.04434, section 2.1.2), or keys and values.
#pragma once

#include <vector>

#include "quern/autograd/tensor.h"
#include "quern/layers/config.h"

namespace quern {

struct KvCache {
  KvCache(const ModelConfig& config, i64 max_tokens, DType dtype);

  struct Layer {
    // Of MLA:
    Tensor latent;  // [max_tokens, kv_lora_rank], after its norm
    Tensor k_rope;  // [max_tokens, qk_rope_head_dim], after rotation
    Tensor kv_b;    // [heads * (nope + value), kv_lora_rank], merged() by the first tokens
    // Of the other kinds:
    Tensor keys;    // [max_tokens, kv_heads * head_dim], after rotation
    Tensor values;  // [max_tokens, kv_heads * head_dim]
  };
  i64 max_tokens;
  i64 tokens = 0;  // filled so far, in every layer
  std::vector<Layer> layers;
};

}  // namespace quern
