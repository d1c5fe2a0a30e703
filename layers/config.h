// SPDX-License-Identifier: MIT
// The shape of a model: one flat struct with the names of Hugging Face's config.json, its checks,
// and what follows from it by arithmetic alone (parameters, FLOPs).
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace quern {

// Context extension by YaRN, as DeepSeek-V2 uses it; config.json calls it rope_scaling.
struct YarnConfig {
  double factor = 1.0;
  std::int64_t original_max_position_embeddings = 4096;
  double beta_fast = 32.0;
  double beta_slow = 1.0;
  double mscale = 1.0;
  double mscale_all_dim = 0.0;

  bool operator==(const YarnConfig&) const = default;
};

// Defaults are the `tiny` shape of the benchmarks; what is not a size has the value of DeepSeek-V2.
struct ModelConfig {
  std::int64_t vocab_size = 8192;
  std::int64_t hidden_size = 256;
  std::int64_t intermediate_size = 640;      // width of dense FFNs
  std::int64_t moe_intermediate_size = 128;  // width of one expert
  std::int64_t num_hidden_layers = 6;

  // "mla", or the attention of Llama with keys and values for every head ("mha"), for each of
  // num_key_value_heads groups of heads ("gqa") or one for all heads ("mqa"); or "slots", an
  // experiment. Each kind has sizes of its own; q_lora_rank to v_head_dim are those of MLA, which
  // the others leave unused.
  std::string attention = "mla";
  std::int64_t num_attention_heads = 4;
  std::int64_t q_lora_rank = 0;  // 0: queries are not compressed (null in config.json)
  std::int64_t kv_lora_rank = 64;
  std::int64_t qk_nope_head_dim = 32;
  std::int64_t qk_rope_head_dim = 16;
  std::int64_t v_head_dim = 32;
  std::int64_t num_key_value_heads = 0;  // of gqa; elsewhere 0, or what the kind says anyway
  std::int64_t head_dim = 0;             // of all but mla; 0: hidden_size / num_attention_heads

  std::int64_t n_routed_experts = 16;  // 0: a dense model
  std::int64_t n_shared_experts = 1;
  std::int64_t num_experts_per_tok = 4;
  std::int64_t n_group = 1;
  std::int64_t topk_group = 1;
  // "greedy", "group_limited_greedy", "noaux_tc"; or no method of config.json: "hash", one expert
  // by a fixed table of token ids (arXiv:2106.04426), "expert_choice", in training each expert
  // takes the tokens it scores highest (arXiv:2202.09368), in evaluation it is greedy.
  std::string topk_method = "greedy";
  std::string scoring_func = "softmax";  // "sigmoid", which noaux_tc needs
  bool norm_topk_prob = false;
  double routed_scaling_factor = 1.0;
  // Whether weights that norm_topk_prob normalises are then scaled too. The published code of V3
  // does so, and noaux_tc always; that of V2 does not. No key of Hugging Face's.
  bool scale_normalised_weights = false;
  std::int64_t first_k_dense_replace = 1;
  std::int64_t moe_layer_freq = 1;
  double aux_loss_alpha = 0.001;
  bool seq_aux = true;  // balance each sequence; false: the whole batch
  // The device-level and the communication loss (DeepSeek-V2, eqs. 26-31), with the n_group groups
  // of experts for devices and topk_group for the limit. No keys of Hugging Face's.
  double device_aux_loss_alpha = 0.0;
  double communication_aux_loss_alpha = 0.0;
  // Over which choices the balance losses count: "" as seq_aux says, "global_running", all of the
  // step so far, which lets a sequence use few experts (arXiv:2501.11873), or "global_exact", all
  // of the step, which runs forward once more to know them. No key of Hugging Face's.
  std::string balance_scope;
  double router_z_loss_coef = 0.0;  // of the mean of logsumexp(logits)^2 (ST-MoE, arXiv:2202.08906)
  double router_jitter_noise = 0.0;  // in training, the router's input times U(1 - this, 1 + this)
  // In training only, and of each micro-batch: an expert takes this many times an even share of the
  // tokens' copies, and the rest is dropped, by "position" or the lowest "probability"
  // (ops/capacity.h). 0: all are taken. Or so do the experts of each of the n_group devices
  // together, which drop by probability, but nothing of one sequence in ten (DeepSeek-V2,
  // section 2.2.4).
  double capacity_factor = 0.0;
  std::string capacity_drop = "position";
  double device_capacity_factor = 0.0;
  // Of noaux_tc, and no key of Hugging Face's: after each step an expert's bias grows by this where
  // its load was below the mean, and shrinks where it was above (DeepSeek-V3, section 2.1.2).
  double router_bias_update_rate = 0.001;

  // Experiments of no paper's: what popular accounts of these models say, and their papers do not.
  // A model with any of them says so in config.json and is not called by a paper's name.
  std::string router_input = "hidden";  // or "kv_latent": the gate reads MLA's normed latent
  // Or "parallel": attention and FFN read the same hidden states, x + attention(x) + ffn(x).
  std::string block = "sequential";
  std::int64_t num_attention_slots = 0;  // of attention "slots", see SlotAttention
  // Above 0, MLA's latents are rounded to integers of so many bits, in groups with a scale each
  // (kernels/low_bits.h), and rotary keys to bf16, in training too, where gradients pass as if they
  // were not; generation holds them so.
  std::int64_t latent_bits = 0;
  std::int64_t latent_group_size = 64;
  // Operands of products in attention, FFNs and experts, and their gradients, are rounded to E4M3.
  bool fp8_operands = false;

  // Multi-token prediction (DeepSeek-V3, arXiv:2412.19437, section 2.2), in training only: so many
  // modules behind the last layer, module k predicting the token after the next k. Their losses'
  // mean is added times nextn_loss_weight, which is no key of Hugging Face's.
  std::int64_t num_nextn_predict_layers = 0;
  double nextn_loss_weight = 0.3;

  double rms_norm_eps = 1e-6;
  double rope_theta = 10000.0;
  std::optional<YarnConfig> rope_scaling;
  std::int64_t max_position_embeddings = 2048;
  double initializer_range = 0.02;
  // Standard deviation of embed_tokens at the start. Ours, not Hugging Face's: embeddings as small
  // as the weights leave hidden states sharing one direction, and an untrained router then sends
  // nearly every token to the same experts.
  double embedding_init_std = 1.0;
  bool tie_word_embeddings = false;
  std::int64_t bos_token_id = -1;  // -1: none
  std::int64_t eos_token_id = -1;

  bool operator==(const ModelConfig&) const = default;
};

// Throws ConfigError, whose key is the field ("model.num_experts_per_tok"), at the first value that
// cannot be used. Afterwards no product of sizes, in parameters or bytes, overflows 64 bits.
void validate(const ModelConfig& config);

// Whether layer `index` routes tokens to experts; the others have a dense FFN.
bool is_moe_layer(const ModelConfig& config, std::int64_t index);
// The numbers that a router's gate reads of a token.
std::int64_t gate_width(const ModelConfig& config);

// The experiments that a model has, "router_input kv_latent, block parallel"; empty: none.
std::string experiments_of(const ModelConfig& config);

// Parameters by kind; the kinds add up to `total`. Papers use three meanings of "active for one
// token"; all three are here. A tied head counts in `embedding`, and `head` is then 0.
struct ParameterCount {
  std::int64_t embedding = 0;
  std::int64_t head = 0;
  std::int64_t attention = 0;  // its matrices
  std::int64_t dense_ffn = 0;
  std::int64_t shared_experts = 0;
  std::int64_t routed_experts = 0;
  std::int64_t router = 0;
  std::int64_t norms = 0;  // all RMSNorm gains, those of MLA's latents included
  std::int64_t nextn = 0;  // the modules of multi-token prediction, which nothing but training uses
  std::int64_t total = 0;

  std::int64_t active = 0;                          // with both embedding tables
  std::int64_t active_without_input_embedding = 0;  // the head is counted, also when tied
  std::int64_t active_without_embeddings = 0;
};
ParameterCount count_parameters(const ModelConfig& config);

// Floating-point operations of training (forward and backward) per token, at sequence length `seq`:
// 6 x (active parameters and head) + causal attention, 3 x layers x seq x heads x (widths of a key
// and a value). Modules of multi-token prediction count like layers, each with the head once more.
double flops_per_token(const ModelConfig& config, std::int64_t seq);
// As the tables of DeepSeekMoE (arXiv:2401.06066) count: attention is 12 x layers x hidden x seq,
// not causal and whatever the heads.
double papers_flops_per_token(const ModelConfig& config, std::int64_t seq);

}  // namespace quern
