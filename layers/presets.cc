// SPDX-License-Identifier: MIT
#include "quern/layers/presets.h"

namespace quern {
namespace {

struct Preset {
  const char* name;
  ModelConfig model;
};

// What the models of this house have in common.
ModelConfig deepseek() {
  ModelConfig c;
  c.vocab_size = 102400;
  c.max_position_embeddings = 4096;
  c.initializer_range = 0.006;
  c.bos_token_id = 100000;
  c.eos_token_id = 100001;
  return c;
}

ModelConfig deepseek_mla() {
  ModelConfig c = deepseek();
  c.kv_lora_rank = 512;
  c.qk_nope_head_dim = 128;
  c.qk_rope_head_dim = 64;
  c.v_head_dim = 128;
  return c;
}

// arXiv:2405.04434, section 3.1.2.
ModelConfig deepseek_v2() {
  ModelConfig c = deepseek_mla();
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
  ModelConfig c = deepseek_mla();
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
  ModelConfig c = deepseek_mla();
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

// The models of table 1 in DeepSeekMoE, arXiv:2401.06066: section 4.1.3. The width of a standard
// FFN is not published; 8/3 x hidden_size gives the 1.89B expert parameters of that table.
constexpr std::int64_t kStandardFfn = 3413;

ModelConfig validation_model() {
  ModelConfig c = deepseek();
  c.attention = "mha";
  c.vocab_size = 8192;
  c.hidden_size = 1280;
  c.intermediate_size = c.moe_intermediate_size = kStandardFfn;
  c.num_hidden_layers = 9;
  c.num_attention_heads = 10;
  c.first_k_dense_replace = 0;
  c.n_shared_experts = 0;
  c.aux_loss_alpha = 0.01;
  c.max_position_embeddings = 2048;
  c.bos_token_id = c.eos_token_id = -1;
  return c;
}

ModelConfig validation_dense() {
  ModelConfig c = validation_model();
  c.n_routed_experts = c.num_experts_per_tok = 0;
  return c;
}

// Sixteen experts as wide as a standard FFN; weights are not normalised (eqs. 3-5).
ModelConfig validation_moe(std::int64_t experts_per_token) {
  ModelConfig c = validation_model();
  c.n_routed_experts = 16;
  c.num_experts_per_tok = experts_per_token;
  return c;
}

ModelConfig validation_hash() {
  ModelConfig c = validation_moe(1);
  c.topk_method = "hash";
  c.aux_loss_alpha = 0;
  return c;
}

// Fine-grained experts and a shared one: table 7 as well.
ModelConfig deepseek_moe_2b() {
  ModelConfig c = validation_model();
  c.moe_intermediate_size = kStandardFfn / 4;
  c.n_routed_experts = 63;
  c.n_shared_experts = 1;
  c.num_experts_per_tok = 7;
  return c;
}

// arXiv:2401.06066, section 5.1.2; widths of FFNs from its config.json (deepseek-moe-16b-base).
ModelConfig deepseek_moe_16b() {
  ModelConfig c = deepseek();
  c.attention = "mha";
  c.hidden_size = 2048;
  c.intermediate_size = 10944;
  c.moe_intermediate_size = 1408;
  c.num_hidden_layers = 28;
  c.num_attention_heads = 16;
  c.n_routed_experts = 64;
  c.n_shared_experts = 2;
  c.num_experts_per_tok = 6;
  return c;
}

// arXiv:2401.06066, section 7.1 and table 7. Neither width of FFNs is published: that of experts,
// and a first layer as wide as the 16 experts of a token, give the published 144.6B and 22.2B.
ModelConfig deepseek_moe_145b() {
  ModelConfig c = deepseek();
  c.attention = "mha";
  c.hidden_size = 4096;
  c.intermediate_size = 16 * 1408;
  c.moe_intermediate_size = 1408;
  c.num_hidden_layers = 62;
  c.num_attention_heads = 32;
  c.n_routed_experts = 128;
  c.n_shared_experts = 4;
  c.num_experts_per_tok = 12;
  c.n_group = 4;  // the devices of the device-level loss
  c.aux_loss_alpha = 0.003;
  c.device_aux_loss_alpha = 0.05;
  return c;
}

// What models in the form of Llama share: RMSNorm, SwiGLU, rotary embeddings, no biases.
ModelConfig llama(std::int64_t layers, std::int64_t hidden, std::int64_t heads,
                  std::int64_t kv_heads) {
  ModelConfig c;
  c.attention = heads == kv_heads ? "mha" : "gqa";
  c.num_hidden_layers = layers;
  c.hidden_size = hidden;
  c.num_attention_heads = heads;
  c.num_key_value_heads = kv_heads;
  c.n_routed_experts = c.n_shared_experts = c.num_experts_per_tok = 0;
  c.first_k_dense_replace = 0;
  c.rms_norm_eps = 1e-5;
  c.max_position_embeddings = 4096;
  c.vocab_size = 32000;
  c.bos_token_id = 1;
  c.eos_token_id = 2;
  return c;
}

// DeepSeek LLM, arXiv:2401.02954, table 2; the rest from its config.json (deepseek-llm-67b-base).
ModelConfig deepseek_67b() {
  ModelConfig c = llama(95, 8192, 64, 8);
  c.vocab_size = 102400;
  c.intermediate_size = 22016;
  c.rms_norm_eps = 1e-6;
  c.initializer_range = 0.006;
  c.bos_token_id = 100000;
  c.eos_token_id = 100001;
  return c;
}

// arXiv:2307.09288, section 2.2; the rest from its config.json (Llama-2-7b-hf).
ModelConfig llama_2_7b() {
  ModelConfig c = llama(32, 4096, 32, 32);
  c.intermediate_size = 11008;
  return c;
}

// arXiv:2407.21783, table 3, before its context is extended.
ModelConfig llama_3_8b() {
  ModelConfig c = llama(32, 4096, 32, 8);
  c.vocab_size = 128256;
  c.intermediate_size = 14336;
  c.rope_theta = 500000;
  c.max_position_embeddings = 8192;
  c.bos_token_id = 128000;
  c.eos_token_id = 128001;
  return c;
}

// arXiv:2404.14219, section 2, and its config.json (Phi-3-mini-4k-instruct), which beyond this
// limits attention to a window of 2,047 tokens.
ModelConfig phi_3_mini() {
  ModelConfig c = llama(32, 3072, 32, 32);
  c.vocab_size = 32064;
  c.intermediate_size = 8192;
  c.eos_token_id = 32000;
  return c;
}

// Weights of the chosen are a softmax over their logits alone, as norm_topk_prob makes them; no
// balance loss is published (arXiv:2401.04088, section 2.1).
ModelConfig mixtral(ModelConfig c) {
  c.n_routed_experts = 8;
  c.num_experts_per_tok = 2;
  c.norm_topk_prob = true;
  c.aux_loss_alpha = 0;
  c.rope_theta = 1e6;
  return c;
}

// arXiv:2401.04088, table 1.
ModelConfig mixtral_8x7b() {
  ModelConfig c = mixtral(llama(32, 4096, 32, 8));
  c.moe_intermediate_size = 14336;
  c.max_position_embeddings = 32768;
  return c;
}

// Its config.json (Mixtral-8x22B-v0.1).
ModelConfig mixtral_8x22b() {
  ModelConfig c = mixtral(llama(56, 6144, 48, 8));
  c.moe_intermediate_size = 16384;
  c.max_position_embeddings = 65536;
  return c;
}

// arXiv:2409.02060, table 10, and its config.json (OLMoE-1B-7B-0924). Left out are the RMSNorms of
// its queries and keys, 65,536 of its 6,919,161,856 parameters.
ModelConfig olmoe_1b_7b() {
  ModelConfig c = llama(16, 2048, 16, 16);
  c.vocab_size = 50304;
  c.moe_intermediate_size = 1024;
  c.n_routed_experts = 64;
  c.num_experts_per_tok = 8;
  c.aux_loss_alpha = 0.01;
  c.router_z_loss_coef = 0.001;
  c.seq_aux = false;
  c.bos_token_id = -1;
  c.eos_token_id = 50279;
  return c;
}

std::vector<Preset> presets() {
  return {{"deepseek-v2", deepseek_v2()},
          {"deepseek-v2-lite", deepseek_v2_lite()},
          {"deepseek-v3", deepseek_v3()},
          {"dense", validation_dense()},
          {"hash", validation_hash()},
          {"switch", validation_moe(1)},
          {"gshard", validation_moe(2)},
          {"deepseek-moe-2b", deepseek_moe_2b()},
          {"deepseek-moe-16b", deepseek_moe_16b()},
          {"deepseek-moe-145b", deepseek_moe_145b()},
          {"deepseek-67b", deepseek_67b()},
          {"mixtral-8x7b", mixtral_8x7b()},
          {"mixtral-8x22b", mixtral_8x22b()},
          {"olmoe-1b-7b", olmoe_1b_7b()},
          {"llama-2-7b", llama_2_7b()},
          {"llama-3-8b", llama_3_8b()},
          {"phi-3-mini", phi_3_mini()}};
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
