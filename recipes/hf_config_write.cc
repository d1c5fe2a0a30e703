// SPDX-License-Identifier: MIT
// Writes Hugging Face's config.json.
#include <nlohmann/json.hpp>

#include "quern/layers/attention_shape.h"
#include "quern/recipes/hf_config.h"
#include "quern/recipes/internal/hf_generation.h"

namespace quern {
namespace {

using namespace internal::hf;
using Ordered = nlohmann::ordered_json;

const Generation& generation_of(const ModelConfig& c) {
  if (!experiments_of(c).empty()) return kExperiment;
  if (c.attention == "mla") return c.topk_method == "noaux_tc" ? kV3 : kV2;
  return c.n_routed_experts > 0 ? kMoe : kLlama;
}

void write_experiments(const ModelConfig& c, Ordered& json) {
  json["router_input"] = c.router_input;
  json["block"] = c.block;
  json["latent_bits"] = c.latent_bits;
  json["latent_group_size"] = c.latent_group_size;
  json["fp8_operands"] = c.fp8_operands;
  if (c.attention == "slots") json["num_attention_slots"] = c.num_attention_slots;
}

}  // namespace

std::string to_hf_config(const ModelConfig& c, std::span<const HfKey> unknown_keys) {
  const bool mla = c.attention == "mla";
  const Generation& generation = generation_of(c);
  const auto or_null = [](std::int64_t value, bool given) {
    return given ? Ordered(value) : Ordered(nullptr);
  };
  const bool moe = c.n_routed_experts > 0;
  Ordered json = {
      {"architectures", Ordered::array({generation.architecture})},
      {"model_type", generation.type},
      {"vocab_size", c.vocab_size},
      {"hidden_size", c.hidden_size},
      {"intermediate_size", c.intermediate_size},
      {"moe_intermediate_size", c.moe_intermediate_size},
      {"num_hidden_layers", c.num_hidden_layers},
      {"num_attention_heads", c.num_attention_heads},
      {"num_key_value_heads", head_shape(c).kv_heads},
      {"n_routed_experts", or_null(c.n_routed_experts, moe)},
      {"n_shared_experts", or_null(c.n_shared_experts, c.n_shared_experts > 0)},
      {"num_experts_per_tok", or_null(c.num_experts_per_tok, moe)},
      {"first_k_dense_replace", c.first_k_dense_replace},
      {"moe_layer_freq", c.moe_layer_freq},
      {"n_group", c.n_group},
      {"topk_group", c.topk_group},
      {"topk_method", c.topk_method},
      {"scoring_func", c.scoring_func},
      {"norm_topk_prob", c.norm_topk_prob},
      {"routed_scaling_factor", c.routed_scaling_factor},
      {"aux_loss_alpha", c.aux_loss_alpha},
      {"seq_aux", c.seq_aux},
      {"hidden_act", "silu"},
      {"max_position_embeddings", c.max_position_embeddings},
      {"rms_norm_eps", c.rms_norm_eps},
      {"rope_theta", c.rope_theta},
      {"rope_scaling", nullptr},
      {"attention_bias", false},
      {"attention_dropout", 0.0},
      {"initializer_range", c.initializer_range},
      {"use_cache", true},
      {"tie_word_embeddings", c.tie_word_embeddings},
      {"bos_token_id", or_null(c.bos_token_id, c.bos_token_id >= 0)},
      {"eos_token_id", or_null(c.eos_token_id, c.eos_token_id >= 0)},
      {"pad_token_id", nullptr},
      {"torch_dtype", "float32"},
      {"transformers_version", "4.54.0"},
  };
  // No key of theirs, and needed to compute the same.
  if (&generation == &kExperiment) write_experiments(c, json);
  if (c.scale_normalised_weights) json["scale_normalised_weights"] = true;
  if (c.num_nextn_predict_layers > 0) {
    json["num_nextn_predict_layers"] = c.num_nextn_predict_layers;
    json["nextn_loss_weight"] = c.nextn_loss_weight;
  }
  if (mla) {
    json["q_lora_rank"] = or_null(c.q_lora_rank, c.q_lora_rank > 0);
    json["kv_lora_rank"] = c.kv_lora_rank;
    json["qk_nope_head_dim"] = c.qk_nope_head_dim;
    json["qk_rope_head_dim"] = c.qk_rope_head_dim;
    json["v_head_dim"] = c.v_head_dim;
  } else {
    json["head_dim"] = or_null(c.head_dim, c.head_dim > 0);
  }
  if (c.rope_scaling) {
    const YarnConfig& yarn = *c.rope_scaling;
    json["rope_scaling"] = {
        {"type", "yarn"},
        {"factor", yarn.factor},
        {"original_max_position_embeddings", yarn.original_max_position_embeddings},
        {"beta_fast", yarn.beta_fast},
        {"beta_slow", yarn.beta_slow},
        {"mscale", yarn.mscale},
        {"mscale_all_dim", yarn.mscale_all_dim},
    };
  }
  for (const HfKey& key : unknown_keys) json[key.name] = Ordered::parse(key.json);
  return json.dump(2) + "\n";
}

}  // namespace quern
