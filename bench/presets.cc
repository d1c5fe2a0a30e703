// SPDX-License-Identifier: MIT
#include "bench/presets.h"

#include "quern/autograd/error.h"

namespace quern::bench {
namespace {

struct Ffn {
  const char* name;
  bool small;                          // the larger of the two bodies
  std::int64_t experts, width, top_k;  // no experts: one dense FFN of this width
  std::int64_t shared;
};

constexpr Ffn kFfns[] = {
    {"tiny", false, 16, 128, 4, 1}, {"small", true, 64, 192, 6, 2},  {"tiny_dense", false, 0, 640},
    {"small_dense", true, 0, 1536}, {"gran1", true, 16, 768, 2, 1},  {"gran2", true, 32, 384, 4, 2},
    {"gran4", true, 64, 192, 8, 4}, {"gran8", true, 128, 96, 16, 8}, {"gran_dense", true, 0, 2304},
};

ModelConfig body(bool small) {
  ModelConfig c;
  c.first_k_dense_replace = 0;
  c.seq_aux = false;
  c.hidden_size = small ? 512 : 256;
  c.num_hidden_layers = small ? 8 : 6;
  c.num_attention_heads = small ? 8 : 4;
  c.kv_lora_rank = small ? 128 : 64;
  c.qk_nope_head_dim = small ? 64 : 32;
  c.qk_rope_head_dim = small ? 32 : 16;
  c.v_head_dim = small ? 64 : 32;
  c.vocab_size = small ? 16384 : 8192;
  return c;
}

}  // namespace

ModelConfig preset(const std::string& name) {
  for (const Ffn& f : kFfns) {
    if (name != f.name) continue;
    ModelConfig c = body(f.small);
    c.n_routed_experts = f.experts;
    c.n_shared_experts = f.shared;
    c.num_experts_per_tok = f.top_k;
    (f.experts > 0 ? c.moe_intermediate_size : c.intermediate_size) = f.width;
    return c;
  }
  throw ConfigError({.key = "--preset", .what = "unknown", .actual = name});
}

std::vector<std::string> preset_names() {
  std::vector<std::string> names;
  for (const Ffn& f : kFfns) names.emplace_back(f.name);
  return names;
}

}  // namespace quern::bench
