// SPDX-License-Identifier: MIT
// config.json of DeepSeek-V2 models: what is read, kept, refused and written.
#include "quern/recipes/hf_config.h"

#include <gtest/gtest.h>

#include <random>
#include <regex>

#include "quern/autograd/error.h"
#include "quern/layers/presets.h"
#include "tests/support/toy_model.h"

namespace quern {
namespace {

// The configs of the golden files (tests/golden), as transformers wrote them.
constexpr const char* kV2LiteGreedy =
    R"({"architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", "vocab_size": 127,
"hidden_size": 48, "intermediate_size": 72, "moe_intermediate_size": 18, "num_hidden_layers": 3,
"num_attention_heads": 4, "num_key_value_heads": 4, "n_shared_experts": 2, "n_routed_experts":
8, "ep_size": 1, "routed_scaling_factor": 1.0, "kv_lora_rank": 16, "q_lora_rank": null,
"qk_rope_head_dim": 8, "v_head_dim": 12, "qk_nope_head_dim": 12, "topk_method": "greedy",
"n_group": null, "topk_group": null, "num_experts_per_tok": 3, "moe_layer_freq": 1,
"first_k_dense_replace": 1, "norm_topk_prob": false, "scoring_func": "softmax",
"aux_loss_alpha": 0.001, "seq_aux": true, "hidden_act": "silu", "max_position_embeddings": 128,
"initializer_range": 0.02, "rms_norm_eps": 1e-06, "use_cache": false, "bos_token_id": 0,
"eos_token_id": 1, "pretraining_tp": 1, "tie_word_embeddings": false, "rope_theta": 10000.0,
"rope_scaling": null, "attention_bias": false, "attention_dropout": 0.0})";

constexpr const char* kV2NormTopk =
    R"({"architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", "vocab_size": 101,
"hidden_size": 48, "intermediate_size": 80, "moe_intermediate_size": 20, "num_hidden_layers": 2,
"num_attention_heads": 4, "num_key_value_heads": 4, "n_shared_experts": 1, "n_routed_experts":
8, "ep_size": 1, "routed_scaling_factor": 2.0, "kv_lora_rank": 16, "q_lora_rank": null,
"qk_rope_head_dim": 8, "v_head_dim": 12, "qk_nope_head_dim": 12, "topk_method": "greedy",
"n_group": null, "topk_group": null, "num_experts_per_tok": 3, "moe_layer_freq": 1,
"first_k_dense_replace": 0, "norm_topk_prob": true, "scoring_func": "softmax", "aux_loss_alpha":
0.01, "seq_aux": true, "hidden_act": "silu", "max_position_embeddings": 128,
"initializer_range": 0.02, "rms_norm_eps": 1e-06, "use_cache": false, "bos_token_id": 0,
"eos_token_id": 1, "pretraining_tp": 1, "tie_word_embeddings": false, "rope_theta": 10000.0,
"rope_scaling": null, "attention_bias": false, "attention_dropout": 0.0})";

constexpr const char* kV2QloraGroupLimited =
    R"({"architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", "vocab_size": 113,
"hidden_size": 40, "intermediate_size": 72, "moe_intermediate_size": 12, "num_hidden_layers": 3,
"num_attention_heads": 4, "num_key_value_heads": 4, "n_shared_experts": 1, "n_routed_experts":
16, "ep_size": 1, "routed_scaling_factor": 16.0, "kv_lora_rank": 16, "q_lora_rank": 24,
"qk_rope_head_dim": 8, "v_head_dim": 12, "qk_nope_head_dim": 12, "topk_method":
"group_limited_greedy", "n_group": 4, "topk_group": 2, "num_experts_per_tok": 4,
"moe_layer_freq": 1, "first_k_dense_replace": 1, "norm_topk_prob": false, "scoring_func":
"softmax", "aux_loss_alpha": 0.003, "seq_aux": false, "hidden_act": "silu",
"max_position_embeddings": 128, "initializer_range": 0.02, "rms_norm_eps": 1e-05, "use_cache":
false, "bos_token_id": 0, "eos_token_id": 1, "pretraining_tp": 1, "tie_word_embeddings": false,
"rope_theta": 10000.0, "rope_scaling": null, "attention_bias": false, "attention_dropout": 0.0})";

constexpr const char* kV2Yarn =
    R"({"architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", "vocab_size": 127,
"hidden_size": 44, "intermediate_size": 80, "moe_intermediate_size": 20, "num_hidden_layers": 3,
"num_attention_heads": 3, "num_key_value_heads": 3, "n_shared_experts": 2, "n_routed_experts":
8, "ep_size": 1, "routed_scaling_factor": 1.0, "kv_lora_rank": 16, "q_lora_rank": null,
"qk_rope_head_dim": 16, "v_head_dim": 8, "qk_nope_head_dim": 8, "topk_method": "greedy",
"n_group": null, "topk_group": null, "num_experts_per_tok": 3, "moe_layer_freq": 1,
"first_k_dense_replace": 1, "norm_topk_prob": false, "scoring_func": "softmax",
"aux_loss_alpha": 0.001, "seq_aux": true, "hidden_act": "silu", "max_position_embeddings": 480,
"initializer_range": 0.02, "rms_norm_eps": 1e-06, "use_cache": false, "bos_token_id": 0,
"eos_token_id": 1, "pretraining_tp": 1, "tie_word_embeddings": false, "rope_theta": 100.0,
"rope_scaling": {"type": "yarn", "factor": 40, "beta_fast": 32, "beta_slow": 1, "mscale": 0.707,
"mscale_all_dim": 0.707, "original_max_position_embeddings": 12}, "attention_bias": false,
"attention_dropout": 0.0})";

constexpr const char* kV3NoauxTc =
    R"({"architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "vocab_size": 97,
"hidden_size": 40, "intermediate_size": 64, "moe_intermediate_size": 12, "num_hidden_layers": 3,
"num_attention_heads": 4, "num_key_value_heads": 4, "n_shared_experts": 1, "n_routed_experts":
16, "ep_size": 1, "routed_scaling_factor": 2.5, "kv_lora_rank": 16, "q_lora_rank": 20,
"qk_rope_head_dim": 8, "v_head_dim": 10, "qk_nope_head_dim": 12, "topk_method": "noaux_tc",
"n_group": 4, "topk_group": 2, "num_experts_per_tok": 4, "moe_layer_freq": 1,
"first_k_dense_replace": 1, "norm_topk_prob": true, "scoring_func": "sigmoid", "aux_loss_alpha":
0.0, "seq_aux": true, "hidden_act": "silu", "max_position_embeddings": 128, "initializer_range":
0.02, "rms_norm_eps": 1e-06, "use_cache": false, "bos_token_id": 0, "eos_token_id": 1,
"pretraining_tp": 1, "tie_word_embeddings": false, "rope_theta": 10000.0, "rope_scaling": null,
"attention_bias": false, "attention_dropout": 0.0, "rope_interleave": true})";

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

std::string sentence_of(const std::string& text) {
  try {
    parse_hf_config(text, "config.json");
    return "accepted";
  } catch (const ConfigError& error) {
    return error.what();
  }
}

TEST(HfConfig, ReadsTheGoldenConfigs) {
  for (const char* text : {kV2LiteGreedy, kV2NormTopk, kV2QloraGroupLimited, kV2Yarn}) {
    EXPECT_TRUE(parse_hf_config(text, "config.json").unknown_keys.empty());
  }
  const ModelConfig lite = parse_hf_config(kV2LiteGreedy, "config.json").model;
  EXPECT_EQ(lite.vocab_size, 127);
  EXPECT_EQ(lite.q_lora_rank, 0);
  EXPECT_EQ(lite.n_group, 1);
  EXPECT_EQ(lite.eos_token_id, 1);
  const ModelConfig grouped = parse_hf_config(kV2QloraGroupLimited, "config.json").model;
  EXPECT_EQ(grouped.q_lora_rank, 24);
  EXPECT_EQ(grouped.topk_method, "group_limited_greedy");
  EXPECT_EQ(grouped.n_group, 4);
  EXPECT_EQ(grouped.routed_scaling_factor, 16.0);
  EXPECT_FALSE(grouped.seq_aux);
  EXPECT_TRUE(parse_hf_config(kV2NormTopk, "config.json").model.norm_topk_prob);
  const ModelConfig yarn = parse_hf_config(kV2Yarn, "config.json").model;
  EXPECT_TRUE(yarn.rope_scaling == (YarnConfig{.factor = 40.0,
                                               .original_max_position_embeddings = 12,
                                               .beta_fast = 32.0,
                                               .beta_slow = 1.0,
                                               .mscale = 0.707,
                                               .mscale_all_dim = 0.707}));
}

TEST(HfConfig, ReadsTheThirdGeneration) {
  const ModelConfig c = parse_hf_config(kV3NoauxTc, "config.json").model;
  EXPECT_EQ(c.topk_method, "noaux_tc");
  EXPECT_EQ(c.scoring_func, "sigmoid");
  EXPECT_EQ(c.n_group, 4);
  // What today's files leave out.
  std::string shorter = replaced(kV3NoauxTc, "\"topk_method\": \"noaux_tc\",", "");
  shorter = replaced(shorter, "\"scoring_func\": \"sigmoid\",", "");
  EXPECT_TRUE(parse_hf_config(shorter, "config.json").model == c);
  EXPECT_NE(to_hf_config(c).find("\"model_type\": \"deepseek_v3\""), std::string::npos);
  // Published files have no factor for the balance loss; it is not 0 for that.
  const std::string silent =
      std::regex_replace(kV3NoauxTc, std::regex("\"aux_loss_alpha\":\\s*[^,]*,"), "");
  EXPECT_EQ(silent.find("aux_loss_alpha"), std::string::npos);
  EXPECT_EQ(parse_hf_config(silent, "config.json").model.aux_loss_alpha,
            ModelConfig{}.aux_loss_alpha);
}

// The file of deepseek-ai/DeepSeek-V3, without what is not about the model.
constexpr const char* kV3 = R"({"architectures": ["DeepseekV3ForCausalLM"],
"attention_bias": false, "attention_dropout": 0.0,
"auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config"}, "bos_token_id": 0,
"eos_token_id": 1, "ep_size": 1, "first_k_dense_replace": 3, "hidden_act": "silu",
"hidden_size": 7168, "initializer_range": 0.02, "intermediate_size": 18432, "kv_lora_rank": 512,
"max_position_embeddings": 163840, "model_type": "deepseek_v3", "moe_intermediate_size": 2048,
"moe_layer_freq": 1, "n_group": 8, "n_routed_experts": 256, "n_shared_experts": 1,
"norm_topk_prob": true, "num_attention_heads": 128, "num_experts_per_tok": 8,
"num_hidden_layers": 61, "num_key_value_heads": 128, "num_nextn_predict_layers": 1,
"q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
"quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
"weight_block_size": [128, 128]}, "rms_norm_eps": 1e-06,
"rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0,
"mscale_all_dim": 1.0, "original_max_position_embeddings": 4096, "type": "yarn"},
"rope_theta": 10000, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid",
"tie_word_embeddings": false, "topk_group": 4, "topk_method": "noaux_tc",
"torch_dtype": "bfloat16", "transformers_version": "4.33.1", "use_cache": true,
"v_head_dim": 128, "vocab_size": 129280})";

// 671B, and a module of multi-token prediction: its README_WEIGHTS.md has 11.5B parameters of its
// own for it, which are those beside eh_proj.
TEST(HfConfig, ReadsDeepSeekV3) {
  const HfConfig config = parse_hf_config(kV3, "config.json");
  const ParameterCount n = count_parameters(config.model);
  EXPECT_NEAR(double(n.total - n.nextn), 671.026e9, 5e5);
  EXPECT_NEAR(double(n.nextn) - 2.0 * 7168 * 7168, 11.5e9, 0.05e9);
  EXPECT_EQ(config.model.nextn_loss_weight, 0.3);
  EXPECT_EQ(config.unknown_keys.size(), 1U);
  EXPECT_TRUE(parse_hf_config(to_hf_config(config.model), "config.json").model == config.model);
}

// The keys of DeepSeekMoE 16B's file and of a Llama's, with small numbers.
constexpr const char* kMoe16b = R"({"architectures": ["DeepseekForCausalLM"],
"attention_bias": false, "attention_dropout": 0.0, "auto_map": {"AutoConfig": "x"},
"aux_loss_alpha": 0.001, "bos_token_id": 0, "eos_token_id": 1, "first_k_dense_replace": 1,
"hidden_act": "silu", "hidden_size": 48, "initializer_range": 0.02, "intermediate_size": 80,
"max_position_embeddings": 64, "model_type": "deepseek", "moe_intermediate_size": 16,
"moe_layer_freq": 1, "n_routed_experts": 8, "n_shared_experts": 2, "norm_topk_prob": false,
"num_attention_heads": 4, "num_experts_per_tok": 3, "num_hidden_layers": 2,
"num_key_value_heads": 4, "pretraining_tp": 1, "rms_norm_eps": 1e-06, "rope_scaling": null,
"rope_theta": 10000, "scoring_func": "softmax", "seq_aux": true, "tie_word_embeddings": false,
"torch_dtype": "bfloat16", "use_cache": true, "vocab_size": 127})";
constexpr const char* kLlama = R"({"architectures": ["LlamaForCausalLM"], "attention_bias": false,
"bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 64, "head_dim": 24,
"initializer_range": 0.02, "intermediate_size": 96, "max_position_embeddings": 128,
"mlp_bias": false, "model_type": "llama", "num_attention_heads": 4, "num_hidden_layers": 3,
"num_key_value_heads": 2, "rms_norm_eps": 1e-05, "rope_scaling": null, "rope_theta": 500000.0,
"tie_word_embeddings": true, "torch_dtype": "bfloat16", "vocab_size": 300})";

// The file of mistralai/Mixtral-8x7B-v0.1.
constexpr const char* kMixtral8x7b = R"({"architectures": ["MixtralForCausalLM"],
"attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
"hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336,
"max_position_embeddings": 32768, "model_type": "mixtral", "num_attention_heads": 32,
"num_experts_per_tok": 2, "num_hidden_layers": 32, "num_key_value_heads": 8,
"num_local_experts": 8, "output_router_logits": false, "rms_norm_eps": 1e-05,
"rope_theta": 1000000.0, "router_aux_loss_coef": 0.02, "sliding_window": null,
"tie_word_embeddings": false, "torch_dtype": "bfloat16", "transformers_version": "4.36.0.dev0",
"use_cache": true, "vocab_size": 32000})";

TEST(HfConfig, ReadsMixtral) {
  const HfConfig config = parse_hf_config(kMixtral8x7b, "config.json");
  const ModelConfig preset = find_preset("mixtral-8x7b").value();
  EXPECT_EQ(count_parameters(config.model).total, count_parameters(preset).total);
  EXPECT_EQ(count_parameters(config.model).active, count_parameters(preset).active);
  EXPECT_TRUE(config.model.norm_topk_prob);
  EXPECT_EQ(config.model.aux_loss_alpha, 0.04);
  EXPECT_EQ(config.unknown_keys, (std::vector<HfKey>{{"output_router_logits", "false"}}));
  EXPECT_TRUE(parse_hf_config(to_hf_config(config.model), "config.json").model == config.model);
}

TEST(HfConfig, ExperimentsAreNotCalledByAPapersName) {
  ModelConfig slots = testing::with_attention(testing::toy_config(), "mha");
  slots.attention = "slots";
  slots.num_attention_slots = 5;
  ModelConfig latent = testing::noaux_tc(testing::toy_config());
  latent.router_input = "kv_latent";
  latent.latent_bits = 6;
  ModelConfig parallel = testing::toy_config();
  parallel.block = "parallel";
  parallel.fp8_operands = true;
  for (const ModelConfig& c : {slots, latent, parallel}) {
    validate(c);
    const std::string text = to_hf_config(c);
    EXPECT_NE(text.find("\"model_type\": \"quern_experiment\""), std::string::npos);
    EXPECT_EQ(text.find("deepseek"), std::string::npos);
    const ModelConfig back = parse_hf_config(text, "config.json").model;
    EXPECT_EQ(to_hf_config(back), text);
    EXPECT_EQ(experiments_of(back), experiments_of(c));
  }
}

TEST(HfConfig, ReadsModelsWithHeadsOfKeys) {
  const HfConfig moe = parse_hf_config(kMoe16b, "config.json");
  EXPECT_EQ(moe.model.attention, "mha");
  EXPECT_EQ(moe.model.n_shared_experts, 2);
  EXPECT_EQ(moe.unknown_keys, (std::vector<HfKey>{{"auto_map", "{\"AutoConfig\":\"x\"}"}}));
  const ModelConfig llama = parse_hf_config(kLlama, "config.json").model;
  EXPECT_EQ(llama.attention, "gqa");
  EXPECT_EQ(llama.num_key_value_heads, 2);
  EXPECT_EQ(llama.head_dim, 24);
  EXPECT_EQ(llama.n_routed_experts, 0);
  // Two tables are one here; q and o 64 x 96, k and v 64 x 48; the FFN; the norms.
  EXPECT_EQ(count_parameters(llama).total,
            300 * 64 + 3 * (2 * 64 * 96 + 2 * 64 * 48 + 3 * 64 * 96 + 2 * 64) + 64);
  const std::string one =
      replaced(kLlama, "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 1");
  EXPECT_EQ(parse_hf_config(one, "config.json").model.attention, "mqa");
  const std::string none = replaced(kLlama, "\"num_key_value_heads\": 2,", "");
  EXPECT_EQ(parse_hf_config(none, "config.json").model.attention, "mha");
  EXPECT_NE(to_hf_config(llama).find("\"model_type\": \"llama\""), std::string::npos);
  EXPECT_NE(to_hf_config(moe.model).find("\"model_type\": \"deepseek\""), std::string::npos);
  EXPECT_EQ(to_hf_config(llama).find("kv_lora_rank"), std::string::npos);
}

TEST(HfConfig, WritesWhatItReads) {
  for (const char* text :
       {kV2LiteGreedy, kV2NormTopk, kV2QloraGroupLimited, kV2Yarn, kV3NoauxTc, kMoe16b, kLlama}) {
    const ModelConfig model = parse_hf_config(text, "config.json").model;
    EXPECT_TRUE(parse_hf_config(to_hf_config(model), "again").model == model);
  }
  ModelConfig scaled = parse_hf_config(kV2NormTopk, "config.json").model;
  scaled.scale_normalised_weights = true;
  EXPECT_TRUE(parse_hf_config(to_hf_config(scaled), "again").model == scaled);
  ModelConfig dense;
  dense.n_routed_experts = dense.n_shared_experts = dense.num_experts_per_tok = 0;
  EXPECT_TRUE(parse_hf_config(to_hf_config(dense), "again").model == dense);
}

TEST(HfConfig, WritesFloatsAsFloatsAndNoneAsNull) {
  const std::string text = to_hf_config(ModelConfig{});
  for (const char* piece :
       {"\"routed_scaling_factor\": 1.0,", "\"rms_norm_eps\": 1e-06,", "\"rope_theta\": 10000.0,",
        "\"q_lora_rank\": null,", "\"num_key_value_heads\": 4,", "\"rope_scaling\": null,"}) {
    EXPECT_NE(text.find(piece), std::string::npos) << piece;
  }
}

TEST(HfConfig, KeepsUnknownKeys) {
  const std::string text =
      replaced(kV2LiteGreedy, "{", "{\"zeta\": {\"a\": [1, 2.5]}, \"auto_map\": \"x\", ");
  const HfConfig config = parse_hf_config(text, "config.json");
  EXPECT_EQ(config.unknown_keys,
            (std::vector<HfKey>{{"auto_map", "\"x\""}, {"zeta", "{\"a\":[1,2.5]}"}}));
  const HfConfig again = parse_hf_config(to_hf_config(config.model, config.unknown_keys), "again");
  EXPECT_EQ(again.unknown_keys, config.unknown_keys);
}

TEST(HfConfig, AcceptsTheFormsOthersWrite) {
  EXPECT_EQ(
      parse_hf_config(replaced(kV2LiteGreedy, "\"greedy\"", "\"gready\""), "c").model.topk_method,
      "greedy");
  const ModelConfig newer =
      parse_hf_config(replaced(kV2LiteGreedy, "\"rope_scaling\": null",
                               "\"rope_parameters\": {\"rope_type\": \"default\", "
                               "\"rope_theta\": 500.0}"),
                      "c")
          .model;
  EXPECT_EQ(newer.rope_theta, 500.0);
  EXPECT_FALSE(newer.rope_scaling.has_value());
  const ModelConfig yarn = parse_hf_config(replaced(kV2Yarn, "\"rope_scaling\": {\"type\"",
                                                    "\"rope_parameters\": {\"rope_type\""),
                                           "c")
                               .model;
  EXPECT_EQ(yarn.rope_scaling->factor, 40.0);
  EXPECT_EQ(parse_hf_config(
                replaced(kV2LiteGreedy, "\"eos_token_id\": 1", "\"eos_token_id\": [5, 6]"), "c")
                .model.eos_token_id,
            5);
}

struct Change {
  const char* from;
  const char* to;
  const char* sentence;
};

TEST(HfConfig, RefusesByFileAndKey) {
  const Change changes[] = {
      {"\"softmax\"", "\"sigmoid\"",
       "config.json: scoring_func: expected softmax when topk_method is greedy, got sigmoid "
       "(compare it with the config.json of DeepSeek-V2-Lite)"},
      {"\"silu\"", "\"gelu\"",
       "config.json: hidden_act: expected \"silu\", got \"gelu\" (Quern computes no other form)"},
      {"\"attention_bias\": false", "\"attention_bias\": true",
       "config.json: attention_bias: expected false, got true (Quern computes no other form)"},
      {"\"attention_dropout\": 0.0", "\"attention_dropout\": 0.1",
       "config.json: attention_dropout: expected 0.0, got 0.1 (Quern computes no other form)"},
      {"\"greedy\"", "\"noaux\"",
       "config.json: topk_method: expected greedy, group_limited_greedy, noaux_tc, hash or "
       "expert_choice, got 'noaux' "
       "(compare it with the config.json of DeepSeek-V2-Lite)"},
      {"\"num_key_value_heads\": 4", "\"num_key_value_heads\": 2",
       "config.json: num_key_value_heads: expected num_attention_heads 4, got 2 (compare it with "
       "the config.json of DeepSeek-V2-Lite)"},
      {"\"hidden_size\": 48", "\"hidden_size\": \"48\"",
       "config.json: hidden_size: expected a whole number, got \"48\" (write the number without "
       "quotes)"},
      {"\"hidden_size\": 48", "\"hidden_size\": 48.0",
       "config.json: hidden_size: expected a whole number, got 48.0 (compare it with the "
       "config.json of DeepSeek-V2-Lite)"},
      {"\"hidden_size\": 48", "\"hidden_size\": 18446744073709551615",
       "config.json: hidden_size: expected a whole number, got 18446744073709551615 (compare it "
       "with the config.json of DeepSeek-V2-Lite)"},
      {"\"hidden_size\": 48", "\"hidden_size\": -48",
       "config.json: hidden_size: expected 1 to 65536, got -48 (compare it with the config.json of "
       "DeepSeek-V2-Lite)"},
      {"\"hidden_size\": 48,", "",
       "config.json: hidden_size: expected a whole number, got nothing (every config.json of "
       "DeepSeek-V2 has this key)"},
      {"\"hidden_size\": 48", "\"hidden_size\": 48, \"hidden_size\": 49",
       "config.json:2:20: hidden_size: this key occurs twice (keep one of them)"},
      {"\"q_lora_rank\": null,", "",
       "config.json: q_lora_rank: expected a whole number or null, got nothing (every config.json "
       "of DeepSeek-V2 has this key)"},
      {"\"seq_aux\": true", "\"seq_aux\": 1",
       "config.json: seq_aux: expected true or false, got 1 (compare it with the config.json of "
       "DeepSeek-V2-Lite)"},
      {"\"rope_theta\": 10000.0", "\"rope_theta\": 1e999",
       "config.json:10:90: a number beyond any float: got 1e999 (put it in quotes if it is a "
       "text)"},
      {"\"rope_theta\": 10000.0", "\"rope_theta\": NaN",
       "config.json:10:85: not valid JSON: got '\"rope_theta\": N' (texts need double quotes; the "
       "only bare words are true, false and null)"},
      {"\"num_experts_per_tok\": 3", "\"num_experts_per_tok\": 9",
       "config.json: num_experts_per_tok: expected 1 to n_routed_experts 8, got 9 (or raise "
       "n_routed_experts)"},
      {"\"rope_scaling\": null", "\"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}",
       "config.json: rope_scaling.type: expected yarn or default, got 'linear' (compare it with "
       "the config.json of DeepSeek-V2-Lite)"},
      {"\"rope_scaling\": null", "\"rope_scaling\": {\"type\": \"yarn\"}",
       "config.json: rope_scaling.factor: expected a number, got nothing (every config.json of "
       "DeepSeek-V2 has this key)"},
      {"\"rope_scaling\": null",
       "\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 2, "
       "\"original_max_position_embeddings\": 64, \"attention_factor\": 1.5}",
       "config.json: rope_scaling.attention_factor: is not supported (compare it with the "
       "config.json of DeepSeek-V2-Lite)"},
      {"\"rope_scaling\": null", "\"rope_scaling\": []",
       "config.json: rope_scaling: expected an object or null, got [] (compare it with the "
       "config.json of DeepSeek-V2-Lite)"},
      {"\"use_cache\": false", "\"quantization_config\": {\"quant_method\": \"fp8\"}",
       "config.json: quantization_config: expected null, or what DeepSeek-V3's has, "
       "{\"activation_scheme\":\"dynamic\",\"fmt\":\"e4m3\",\"quant_method\":\"fp8\",\"weight_"
       "block_size\":[128,128]}, got {\"quant_method\":\"fp8\"} (Quern computes no other form)"},
      {"{", "[",
       "config.json:1:17: not valid JSON: expected ']', got ':' (correct the text at this place)"},
  };
  for (const Change& c : changes) {
    EXPECT_EQ(sentence_of(replaced(kV2LiteGreedy, c.from, c.to)), c.sentence) << c.to;
  }
  EXPECT_EQ(sentence_of(replaced(kV3NoauxTc, "\"deepseek_v3\"", "\"deepseek_v4\"")),
            "config.json: model_type: expected \"deepseek_v2\", \"deepseek_v3\", \"deepseek\", "
            "\"llama\" or \"mixtral\", got "
            "\"deepseek_v4\" (Quern runs DeepSeek-V2, V3, DeepSeekMoE, Llama and Mixtral only)");
  EXPECT_EQ(sentence_of(replaced(kV3NoauxTc, "\"deepseek_v3\"", "\"deepseek_v2\"")),
            "config.json: architectures: expected [\"DeepseekV2ForCausalLM\"], got "
            "[\"DeepseekV3ForCausalLM\"] (Quern runs DeepSeek-V2, V3, DeepSeekMoE, Llama and "
            "Mixtral only)");
  EXPECT_EQ(sentence_of("[]"),
            "config.json: expected a JSON object, got array (config.json is one object, "
            "{\"model_type\": \"deepseek_v2\", ...})");
  EXPECT_EQ(sentence_of(""),
            "config.json:1:1: not valid JSON: expected '[', '{', or a literal, got end of input "
            "(it is cut off, or a quote or bracket is not closed)");
  EXPECT_EQ(
      sentence_of(std::string(1'000'000, '[')),
      "config.json:1:65: nests too deeply: expected at most 64 levels (is a bracket not closed?)");
  EXPECT_EQ(sentence_of(std::string((1 << 20) + 1, ' ')),
            "config.json: expected at most 1048576 bytes, got 1048577 (is this the right file?)");
  EXPECT_THROW(read_hf_config("no/such/config.json"), ConfigError);
}

// Damaged files are read or refused in one line, never anything else.
TEST(HfConfig, DamagedTextsAreOneLine) {
  std::mt19937 random(11);
  const std::string alphabet = "{}[],:\"\\ 019.eE-ntf\n\xff\x01";
  for (int round = 0; round < 3000; ++round) {
    std::string text = kV2Yarn;
    for (int edits = 1 + random() % 3; edits > 0; --edits) {
      const std::size_t at = random() % text.size();
      if (random() % 2 == 0)
        text[at] = alphabet[random() % alphabet.size()];
      else
        text.erase(at, random() % 12);
    }
    const std::string sentence = sentence_of(text);
    ASSERT_EQ(sentence.find('\n'), std::string::npos) << sentence;
    ASSERT_LT(sentence.size(), 400u) << sentence;
  }
}

}  // namespace
}  // namespace quern
