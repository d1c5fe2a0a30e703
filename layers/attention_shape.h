// SPDX-License-Identifier: MIT
// What the kind of attention makes of a ModelConfig: heads and their widths, parameters, cache.
#pragma once

#include <cstdint>

#include "quern/layers/config.h"

namespace quern {

// Heads as the products of attention see them. The last `rope` of the `key` columns of a query or
// key are rotated: all of them, except in MLA.
struct HeadShape {
  std::int64_t heads = 0, kv_heads = 0;
  std::int64_t key = 0, rope = 0, value = 0;
};
HeadShape head_shape(const ModelConfig& config);

// The matrices of one layer's attention, and the gains of the norms within it (MLA alone has any).
struct AttentionParameters {
  std::int64_t matrices = 0, norms = 0;
};
AttentionParameters attention_parameters(const ModelConfig& config);

// What generation keeps of each past token, in all layers together: a latent and a rotary key, or
// the keys and values of all kv_heads (DeepSeek-V2, arXiv:2405.04434, table 1).
std::int64_t cache_elements_per_token(const ModelConfig& config);
// Their bytes, as KvCache holds them in f32: with latent_bits packed, scales included, and rotary
// keys in bf16.
std::int64_t cache_bytes_per_token(const ModelConfig& config);
// The elements for this model with `kv_heads` heads of keys and values as wide as its own; keys
// that MLA rebuilds are qk_nope_head_dim wide.
std::int64_t cache_elements_with_heads(const ModelConfig& config, std::int64_t kv_heads);

namespace internal {
// Throws ConfigError at the first size of heads that cannot be used.
void check_attention(const ModelConfig& config);
}  // namespace internal

}  // namespace quern
