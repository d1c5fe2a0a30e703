// SPDX-License-Identifier: MIT
#include "quern/layers/presets.h"

namespace quern {
namespace {

struct Preset {
  const char* name;
  ModelConfig model;
};

// What the three have in common.
ModelConfig deepseek() {
  ModelConfig c;
  c.vocab_size = 102400;
  c.kv_lora_rank = 512;
  c.qk_nope_head_dim = 128;
  c.qk_rope_head_dim = 64;
  c.v_head_dim = 128;
  c.max_position_embeddings = 4096;
  c.initializer_range = 0.006;
  c.bos_token_id = 100000;
  c.eos_token_id = 100001;
  return c;
}

// arXiv:2405.04434, section 3.1.2.
ModelConfig deepseek_v2() {
  ModelConfig c = deepseek();
  c.hidden_size = 5120;
  c.intermediate_size = 12288;
  c.moe_intermediate_size = 1536;
  c.num_hidden_layers = 60;
  c.num_attention_heads = 128;
  c.q_lora_rank = 1536;
  c.n_routed_experts = 160;
  c.n_shared_experts = 2;
  c.num_experts_per_tok = 6;
  c.topk_method = "group_limited_greedy";
  c.n_group = 8;
  c.topk_group = 3;
  c.routed_scaling_factor = 16;
  c.aux_loss_alpha = 0.003;
  c.device_aux_loss_alpha = 0.05;
  c.communication_aux_loss_alpha = 0.02;
  return c;
}

// arXiv:2405.04434, appendix B.1.
ModelConfig deepseek_v2_lite() {
  ModelConfig c = deepseek();
  c.hidden_size = 2048;
  c.intermediate_size = 10944;
  c.moe_intermediate_size = 1408;
  c.num_hidden_layers = 27;
  c.num_attention_heads = 16;
  c.n_routed_experts = 64;
  c.n_shared_experts = 2;
  c.num_experts_per_tok = 6;
  return c;
}

// arXiv:2412.19437, section 4.2; without the module for multi-token prediction.
ModelConfig deepseek_v3() {
  ModelConfig c = deepseek();
  c.vocab_size = 129280;
  c.hidden_size = 7168;
  c.intermediate_size = 18432;
  c.moe_intermediate_size = 2048;
  c.num_hidden_layers = 61;
  c.num_attention_heads = 128;
  c.q_lora_rank = 1536;
  c.n_routed_experts = 256;
  c.n_shared_experts = 1;
  c.num_experts_per_tok = 8;
  c.topk_method = "noaux_tc";
  c.scoring_func = "sigmoid";
  c.n_group = 8;
  c.topk_group = 4;
  c.norm_topk_prob = true;
  c.routed_scaling_factor = 2.5;
  c.first_k_dense_replace = 3;
  c.aux_loss_alpha = 0.0001;
  c.bos_token_id = 0;
  c.eos_token_id = 1;
  return c;
}

std::vector<Preset> presets() {
  return {{"deepseek-v2", deepseek_v2()},
          {"deepseek-v2-lite", deepseek_v2_lite()},
          {"deepseek-v3", deepseek_v3()}};
}

}  // namespace

std::vector<std::string> preset_names() {
  std::vector<std::string> names;
  for (const Preset& p : presets()) names.emplace_back(p.name);
  return names;
}

std::optional<ModelConfig> find_preset(const std::string& name) {
  for (const Preset& p : presets()) {
    if (name == p.name) return p.model;
  }
  return std::nullopt;
}

}  // namespace quern
