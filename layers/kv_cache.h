// SPDX-License-Identifier: MIT
// What attention remembers of past tokens while text is generated: one latent and one rotary key
// per token and layer (DeepSeek-V2, arXiv:2405.04434, section 2.1.2), or keys and values.
#pragma once

#include <cstdint>
#include <vector>

#include "quern/autograd/kernels/low_bits.h"
#include "quern/autograd/tensor.h"
#include "quern/layers/config.h"

namespace quern {

struct KvCache {
  KvCache(const ModelConfig& config, i64 max_tokens, DType dtype);

  // Latents and rotary keys of the first tokens, in the type of sums.
  struct Kept {
    Tensor latent;  // [tokens, kv_lora_rank], after its norm
    Tensor k_rope;  // [tokens, qk_rope_head_dim], after rotation
  };

  struct Layer {
    // Of MLA:
    Tensor latent;              // [max_tokens, kv_lora_rank]; nothing where they are packed
    Tensor k_rope;              // [max_tokens, qk_rope_head_dim]; bf16 where latents are packed
    kernels::PackedRow form{};  // of packed latents
    std::vector<std::uint8_t> packed;  // [max_tokens, form.bytes()]
    Tensor kv_b;  // [heads * (nope + value), kv_lora_rank], merged() by the first tokens
    // Of the other kinds:
    Tensor keys;    // [max_tokens, kv_heads * head_dim], after rotation
    Tensor values;  // [max_tokens, kv_heads * head_dim]

    // Of MLA: writes rows from `past` on, and reads the first ones. What is packed is unpacked for
    // one layer at a time.
    void keep(i64 past, const Tensor& new_latent, const Tensor& new_k_rope);
    Kept kept(i64 tokens) const;

    DType sums = DType::f32;
  };
  i64 max_tokens;
  i64 tokens = 0;  // filled so far, in every layer
  std::vector<Layer> layers;
};

}  // namespace quern
