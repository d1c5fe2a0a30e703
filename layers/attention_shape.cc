// SPDX-License-Identifier: MIT
#include "quern/layers/attention_shape.h"

#include <string>

#include "quern/autograd/error.h"
#include "quern/autograd/kernels/low_bits.h"
#include "quern/layers/internal/check_range.h"

namespace quern {
namespace {

constexpr std::int64_t kMaxHeads = 1 << 10;
constexpr std::int64_t kMaxHeadDim = 1 << 12;
constexpr std::int64_t kMaxRank = 1 << 16;
constexpr std::int64_t kMaxSlots = 1 << 16;

using internal::check_range;
using internal::refuse;
using std::to_string;

bool is_mla(const ModelConfig& c) { return c.attention == "mla"; }

void check_mla_sizes(const ModelConfig& c) {
  check_range("model.q_lora_rank", c.q_lora_rank, 0, kMaxRank);
  check_range("model.kv_lora_rank", c.kv_lora_rank, 1, kMaxRank);
  check_range("model.qk_nope_head_dim", c.qk_nope_head_dim, 1, kMaxHeadDim);
  check_range("model.qk_rope_head_dim", c.qk_rope_head_dim, 2, kMaxHeadDim);
  if (c.qk_rope_head_dim % 2 != 0) {
    refuse("model.qk_rope_head_dim", "an even number (rotation turns pairs)",
           to_string(c.qk_rope_head_dim));
  }
  check_range("model.v_head_dim", c.v_head_dim, 1, kMaxHeadDim);
}

void check_head_dim(const ModelConfig& c) {
  if (c.head_dim == 0 && c.hidden_size % c.num_attention_heads != 0) {
    refuse("model.head_dim",
           "a width, as hidden_size " + to_string(c.hidden_size) +
               " is no multiple of num_attention_heads " + to_string(c.num_attention_heads),
           "0", "as in 64");
  }
  const std::int64_t width = c.head_dim != 0 ? c.head_dim : c.hidden_size / c.num_attention_heads;
  check_range("model.head_dim", width, 2, kMaxHeadDim);
  if (width % 2 != 0) {
    refuse("model.head_dim", "an even number (rotation turns pairs)", to_string(width),
           c.head_dim == 0 ? "it is hidden_size / num_attention_heads" : "");
  }
}

// The number of key heads is given where the kind leaves it open, and agrees with it elsewhere.
void check_kv_heads(const ModelConfig& c) {
  const std::int64_t heads = c.num_attention_heads, given = c.num_key_value_heads;
  const std::string kind = " when attention is " + c.attention;
  if (c.attention == "gqa") {
    if (given < 1 || given > heads || heads % given != 0) {
      refuse("model.num_key_value_heads",
             "a divisor of num_attention_heads " + to_string(heads) + kind, to_string(given),
             "heads share keys in groups of one size");
    }
    return;
  }
  if (c.attention == "slots") {
    check_range("model.num_key_value_heads", given, 0, 0);
    return;
  }
  const std::int64_t only = c.attention == "mqa" ? 1 : heads;
  if (given == 0 || given == only) return;
  refuse("model.num_key_value_heads",
         (only == 1 ? "1" : "num_attention_heads " + to_string(only)) + ", or 0," + kind,
         to_string(given), "other numbers need attention: \"gqa\"");
}

void check_slots(const ModelConfig& c) {
  if (c.attention != "slots") {
    if (c.num_attention_slots == 0) return;
    refuse("model.num_attention_slots", "0 when attention is " + c.attention,
           to_string(c.num_attention_slots), "they need attention: \"slots\"");
  }
  check_range("model.num_attention_slots", c.num_attention_slots, 1, kMaxSlots,
              "as in num_attention_slots: 64");
  if (c.rope_scaling) {
    throw ConfigError({.key = "model.rope_scaling",
                       .what = "means nothing when attention is slots",
                       .hint = "they have no positions"});
  }
}

}  // namespace

void internal::check_attention(const ModelConfig& c) {
  check_word("model.attention", c.attention, {"mla", "mha", "gqa", "mqa", "slots"});
  check_range("model.num_attention_heads", c.num_attention_heads, 1, kMaxHeads);
  check_kv_heads(c);
  check_slots(c);
  if (!is_mla(c)) return check_head_dim(c);
  if (c.head_dim != 0) {
    refuse("model.head_dim", "0 when attention is mla", to_string(c.head_dim),
           "its heads are qk_nope_head_dim + qk_rope_head_dim and v_head_dim wide");
  }
  check_mla_sizes(c);
}

HeadShape head_shape(const ModelConfig& c) {
  const std::int64_t heads = c.num_attention_heads;
  if (is_mla(c)) {
    return {heads, heads, c.qk_nope_head_dim + c.qk_rope_head_dim, c.qk_rope_head_dim,
            c.v_head_dim};
  }
  if (c.attention == "slots") {
    const std::int64_t wide = c.head_dim > 0 ? c.head_dim : c.hidden_size / heads;
    return {heads, 1, wide, 0, wide};
  }
  const std::int64_t kv_heads =
      c.attention == "mha" ? heads : (c.attention == "mqa" ? 1 : c.num_key_value_heads);
  const std::int64_t width = c.head_dim > 0 ? c.head_dim : c.hidden_size / heads;
  return {heads, kv_heads, width, width, width};
}

AttentionParameters attention_parameters(const ModelConfig& c) {
  const HeadShape s = head_shape(c);
  const std::int64_t q_width = s.heads * s.key, o = s.heads * s.value * c.hidden_size;
  if (c.attention == "slots") {
    return {c.hidden_size * q_width + c.num_attention_slots * (s.key + s.value) + o, 0};
  }
  if (!is_mla(c)) {
    return {c.hidden_size * (q_width + s.kv_heads * (s.key + s.value)) + o, 0};
  }
  // DeepSeek-V2, arXiv:2405.04434, eqs. 9-19.
  const std::int64_t q =
      c.q_lora_rank > 0 ? c.q_lora_rank * (c.hidden_size + q_width) : c.hidden_size * q_width;
  const std::int64_t kv_a = c.hidden_size * (c.kv_lora_rank + c.qk_rope_head_dim);
  const std::int64_t kv_b = c.kv_lora_rank * s.heads * (c.qk_nope_head_dim + c.v_head_dim);
  return {q + kv_a + kv_b + o, c.kv_lora_rank + c.q_lora_rank};
}

std::int64_t cache_elements_with_heads(const ModelConfig& c, std::int64_t kv_heads) {
  const HeadShape s = head_shape(c);
  const std::int64_t key = is_mla(c) ? c.qk_nope_head_dim : s.key;
  return kv_heads * (key + s.value) * c.num_hidden_layers;
}

std::int64_t cache_elements_per_token(const ModelConfig& c) {
  if (c.attention == "slots") return 0;
  if (!is_mla(c)) return cache_elements_with_heads(c, head_shape(c).kv_heads);
  return (c.kv_lora_rank + c.qk_rope_head_dim) * c.num_hidden_layers;
}

std::int64_t cache_bytes_per_token(const ModelConfig& c) {
  if (c.latent_bits == 0) return 4 * cache_elements_per_token(c);
  const kernels::PackedRow latent{c.kv_lora_rank, c.latent_bits, c.latent_group_size};
  return (latent.bytes() + 2 * c.qk_rope_head_dim) * c.num_hidden_layers;
}

}  // namespace quern
