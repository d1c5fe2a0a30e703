// SPDX-License-Identifier: MIT
// What attention remembers of past tokens while text is generated: one latent and one rotary key
// per token and layer (DeepSeek-V2, arXiv:2405.04434, section 2.1.2), or keys and values.
#pragma once

#include <cstdint>
#include <vector>

#include "quern/autograd/kernels/low_bits.h"
#include "quern/autograd/ops/cached_rows.h"
#include "quern/autograd/tensor.h"
#include "quern/layers/config.h"

namespace quern {

struct KvCache {
  // Of `sequences`, each of at most max_tokens.
  KvCache(const ModelConfig& config, i64 max_tokens, DType dtype, i64 sequences = 1);

  // Latents and rotary keys in the type of sums, of at least the longest sequence asked for.
  struct Kept {
    Tensor latent;  // [sequences, tokens, kv_lora_rank], after its norm
    Tensor k_rope;  // [sequences, tokens, qk_rope_head_dim], after rotation
  };

  struct Layer {
    // Of MLA:
    Tensor latent;  // [sequences, max_tokens, kv_lora_rank]; nothing where they are packed
    Tensor k_rope;  // [sequences, max_tokens, qk_rope_head_dim]; bf16 where latents are packed
    kernels::PackedRow form{};         // of packed latents
    std::vector<std::uint8_t> packed;  // [sequences, max_tokens, form.bytes()]
    Tensor kv_b;  // [heads * (nope + value), kv_lora_rank], merged() by the first tokens
    // Of the other kinds:
    Tensor keys;    // [sequences, max_tokens, kv_heads, head_dim], after rotation
    Tensor values;  // [sequences, max_tokens, kv_heads, head_dim]

    // Of MLA: writes rows of new tokens, and gives those that they attend to. What is packed is
    // unpacked for one layer at a time.
    void keep(const ops::NewTokens& at, const Tensor& new_latent, const Tensor& new_k_rope);
    Kept kept(const ops::NewTokens& at) const;

    DType sums = DType::f32;
  };
  i64 max_tokens;
  std::vector<i64> tokens;  // [sequences]: filled so far, in every layer
  std::vector<Layer> layers;
};

}  // namespace quern
