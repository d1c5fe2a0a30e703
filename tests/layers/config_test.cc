// SPDX-License-Identifier: MIT
// Parameter and FLOP counts against published models, and the checks of a ModelConfig.
#include "quern/layers/config.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "quern/autograd/error.h"
#include "quern/layers/attention_shape.h"
#include "quern/layers/presets.h"
#include "tests/support/toy_model.h"

namespace quern {
namespace {

ModelConfig v2_lite() { return find_preset("deepseek-v2-lite").value(); }
ModelConfig v2() { return find_preset("deepseek-v2").value(); }

ModelConfig bench_tiny() {
  ModelConfig c;
  c.first_k_dense_replace = 0;
  return c;
}

ModelConfig bench_small() {
  ModelConfig c = bench_tiny();
  c.vocab_size = 16384;
  c.hidden_size = 512;
  c.moe_intermediate_size = 192;
  c.num_hidden_layers = 8;
  c.num_attention_heads = 8;
  c.kv_lora_rank = 128;
  c.qk_nope_head_dim = 64;
  c.qk_rope_head_dim = 32;
  c.v_head_dim = 64;
  c.n_routed_experts = 64;
  c.n_shared_experts = 2;
  c.num_experts_per_tok = 6;
  return c;
}

double billions(std::int64_t n) { return std::round(static_cast<double>(n) * 1e-6) * 1e-3; }
double millions(std::int64_t n) { return std::round(static_cast<double>(n) * 1e-4) * 1e-2; }

struct Published {
  ModelConfig config;
  double total, active, without_input_embedding, without_embeddings;  // in billions
};

TEST(CountParameters, AgreesWithPublishedModels) {
  const Published models[] = {
      {v2_lite(), 15.706, 2.661, 2.451, 2.242},
      {v2(), 235.741, 21.376, 20.852, 20.327},
      {find_preset("deepseek-v3").value(), 671.026, 37.552, 36.626, 35.699}};
  for (const Published& m : models) {
    validate(m.config);
    const ParameterCount n = count_parameters(m.config);
    EXPECT_DOUBLE_EQ(billions(n.total), m.total);
    EXPECT_DOUBLE_EQ(billions(n.active), m.active);
    EXPECT_DOUBLE_EQ(billions(n.active_without_input_embedding), m.without_input_embedding);
    EXPECT_DOUBLE_EQ(billions(n.active_without_embeddings), m.without_embeddings);
  }
}

TEST(CountParameters, AgreesWithTheBenchmarks) {
  EXPECT_DOUBLE_EQ(millions(count_parameters(bench_tiny()).total), 14.96);
  EXPECT_DOUBLE_EQ(millions(count_parameters(bench_tiny()).active_without_embeddings), 3.69);
  EXPECT_DOUBLE_EQ(millions(count_parameters(bench_small()).total), 179.71);
  EXPECT_DOUBLE_EQ(millions(count_parameters(bench_small()).active_without_embeddings), 26.09);
}

TEST(CountParameters, KindsAddUp) {
  for (ModelConfig c : {v2_lite(), v2(), bench_small()}) {
    for (const bool tied : {false, true}) {
      c.tie_word_embeddings = tied;
      const ParameterCount n = count_parameters(c);
      EXPECT_EQ(n.total, n.embedding + n.head + n.attention + n.dense_ffn + n.shared_experts +
                             n.routed_experts + n.router + n.norms);
      EXPECT_EQ(n.head, tied ? 0 : n.embedding);
      EXPECT_EQ(n.active_without_input_embedding - n.active_without_embeddings, n.embedding);
      EXPECT_EQ(n.active - n.active_without_embeddings, n.embedding + n.head);
    }
  }
}

TEST(CountParameters, OfADenseModel) {
  ModelConfig c = bench_tiny();
  c.n_routed_experts = 0;
  validate(c);
  const ParameterCount n = count_parameters(c);
  EXPECT_DOUBLE_EQ(millions(n.total), 7.86);
  EXPECT_EQ(n.routed_experts + n.shared_experts + n.router, 0);
  EXPECT_EQ(n.active, n.total);
}

// DeepSeekMoE, table 1: 2.9T, 4.3T and 24.6T for 2,048 tokens; a standard FFN has 13.1M parameters.
TEST(FlopsPerToken, ThePapersRuleGivesTheirTables) {
  ModelConfig c{.vocab_size = 8192, .hidden_size = 1280, .num_hidden_layers = 9};
  c.attention = "mha";
  c.num_attention_heads = 10;
  c.n_routed_experts = 0;
  const auto sequence = [&c](std::int64_t ffns) {
    c.intermediate_size = ffns * 8 * 1280 / 3;
    return 2048 * papers_flops_per_token(c, 2048) * 1e-12;
  };
  EXPECT_NEAR(sequence(1), 2.88, 0.005);
  EXPECT_NEAR(sequence(2), 4.33, 0.005);
  EXPECT_NEAR(sequence(3), 5.78, 0.005);
  EXPECT_NEAR(sequence(16), 24.63, 0.005);
}

TEST(FlopsPerToken, AgreesWithTheBenchmarks) {
  EXPECT_NEAR(flops_per_token(bench_tiny(), 256) * 1e-6, 36.2, 0.05);
  EXPECT_NEAR(flops_per_token(bench_small(), 256) * 1e-6, 214.8, 0.05);
  ModelConfig dense = bench_small();
  dense.n_routed_experts = 0;
  dense.intermediate_size = 1536;
  EXPECT_NEAR(flops_per_token(dense, 256) * 1e-6, 213.2, 0.05);
}

// By hand, for four heads of 6 columns: q and o are 20 x 24, k and v 20 x 6 for each head of keys.
TEST(AttentionShape, CountsEveryKind) {
  ModelConfig c = testing::toy_config();
  const auto parameters = [&c] { return count_parameters(c).attention / c.num_hidden_layers; };
  const std::int64_t norms = count_parameters(c).norms;
  EXPECT_EQ(parameters(), 20 * 3 * 10 + 20 * (7 + 4) + 7 * 3 * (6 + 5) + 3 * 5 * 20);
  EXPECT_EQ(cache_elements_per_token(c), 2 * (7 + 4));
  for (const auto& [kind, kv_heads] : {std::pair{"mha", 4}, std::pair{"gqa", 2}, {"mqa", 1}}) {
    c = testing::with_attention(c, kind);
    validate(c);
    EXPECT_EQ(parameters(), 2 * 20 * 24 + 2 * 20 * 6 * kv_heads);
    EXPECT_EQ(cache_elements_per_token(c), 2 * 2 * 6 * kv_heads);
    EXPECT_EQ(norms - count_parameters(c).norms, c.num_hidden_layers * 7);  // of the latent
    // Forward and backward, half the square: 3 x layers x seq x heads x both widths.
    const double products = 6.0 * double(count_parameters(c).active_without_input_embedding);
    EXPECT_EQ(flops_per_token(c, 10) - products, 3.0 * 2 * 10 * 4 * (6 + 6));
  }
}

TEST(IsMoeLayer, FollowsFirstDenseAndFrequency) {
  ModelConfig c;
  c.first_k_dense_replace = 1;
  c.moe_layer_freq = 2;
  const auto pattern = [&c] {
    std::string s;
    for (std::int64_t i = 0; i < c.num_hidden_layers; ++i) s += is_moe_layer(c, i) ? 'm' : 'd';
    return s;
  };
  EXPECT_EQ(pattern(), "ddmdmd");
  c.moe_layer_freq = 1;
  EXPECT_EQ(pattern(), "dmmmmm");
  c.n_routed_experts = 0;
  EXPECT_EQ(pattern(), "dddddd");
}

struct Refusal {
  std::function<void(ModelConfig&)> change;
  const char* sentence;
};

TEST(Validate, NamesTheFieldAndTheFact) {
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  const Refusal refusals[] = {
      {[](auto& c) { c.vocab_size = 0; }, "model.vocab_size: expected 2 to 16777216, got 0"},
      {[](auto& c) { c.hidden_size = -1; }, "model.hidden_size: expected 1 to 65536, got -1"},
      {[](auto& c) { c.hidden_size = INT64_MAX; },
       "model.hidden_size: expected 1 to 65536, got 9223372036854775807"},
      {[](auto& c) { c.attention = "mqha"; },
       "model.attention: expected mla, mha, gqa, mqa or slots, got 'mqha' (did you mean 'mha'?)"},
      {[](auto& c) { c.attention = "gqa"; },
       "model.num_key_value_heads: expected a divisor of num_attention_heads 4 when attention is "
       "gqa, got 0 (heads share keys in groups of one size)"},
      {[](auto& c) { c.attention = "gqa", c.num_key_value_heads = 3; },
       "model.num_key_value_heads: expected a divisor of num_attention_heads 4 when attention is "
       "gqa, got 3 (heads share keys in groups of one size)"},
      {[](auto& c) { c.attention = "gqa", c.num_key_value_heads = -1; },
       "model.num_key_value_heads: expected a divisor of num_attention_heads 4 when attention is "
       "gqa, got -1 (heads share keys in groups of one size)"},
      {[](auto& c) { c.attention = "mha", c.num_key_value_heads = 2; },
       "model.num_key_value_heads: expected num_attention_heads 4, or 0, when attention is mha, "
       "got 2 (other numbers need attention: \"gqa\")"},
      {[](auto& c) { c.attention = "mqa", c.num_key_value_heads = 4; },
       "model.num_key_value_heads: expected 1, or 0, when attention is mqa, got 4 (other numbers "
       "need attention: \"gqa\")"},
      {[](auto& c) { c.num_key_value_heads = 2; },
       "model.num_key_value_heads: expected num_attention_heads 4, or 0, when attention is mla, "
       "got 2 (other numbers need attention: \"gqa\")"},
      {[](auto& c) { c.head_dim = 64; },
       "model.head_dim: expected 0 when attention is mla, got 64 (its heads are "
       "qk_nope_head_dim + qk_rope_head_dim and v_head_dim wide)"},
      {[](auto& c) { c.attention = "mha", c.head_dim = 33; },
       "model.head_dim: expected an even number (rotation turns pairs), got 33"},
      {[](auto& c) { c.attention = "mha", c.head_dim = -2; },
       "model.head_dim: expected 2 to 4096, got -2"},
      {[](auto& c) { c.attention = "mha", c.num_attention_heads = 3; },
       "model.head_dim: expected a width, as hidden_size 256 is no multiple of "
       "num_attention_heads 3, got 0 (as in 64)"},
      {[](auto& c) { c.attention = "mha", c.hidden_size = 20; },
       "model.head_dim: expected an even number (rotation turns pairs), got 5 (it is hidden_size / "
       "num_attention_heads)"},
      {[](auto& c) { c.qk_rope_head_dim = 15; },
       "model.qk_rope_head_dim: expected an even number (rotation turns pairs), got 15"},
      {[](auto& c) { c.num_experts_per_tok = 17; },
       "model.num_experts_per_tok: expected 1 to n_routed_experts 16, got 17 (or raise "
       "n_routed_experts)"},
      {[](auto& c) { c.num_experts_per_tok = 0; },
       "model.num_experts_per_tok: expected 1 to n_routed_experts 16, got 0"},
      {[](auto& c) { c.n_group = 4; },
       "model.n_group: expected 1 when topk_method is greedy, got 4 (groups need topk_method: "
       "\"group_limited_greedy\")"},
      {[](auto& c) { c.topk_method = "group_limited_greedy", c.n_group = 3; },
       "model.n_group: expected a divisor of n_routed_experts 16, got 3"},
      {[](auto& c) { c.topk_method = "group_limited_greedy", c.n_group = 4, c.topk_group = 5; },
       "model.topk_group: expected 1 to 4, got 5"},
      {[](auto& c) { c.topk_method = "group_limited_greedy", c.n_group = 8; },
       "model.num_experts_per_tok: expected at most 2, the experts in topk_group 1 groups, got 4 "
       "(or raise topk_group)"},
      {[](auto& c) { c.topk_method = "noaux"; },
       "model.topk_method: expected greedy, group_limited_greedy, noaux_tc, hash or expert_choice, "
       "got 'noaux'"},
      {[](auto& c) { c.topk_method = "noaux_tc"; },
       "model.scoring_func: expected sigmoid when topk_method is noaux_tc, got softmax"},
      {[](auto& c) { c.topk_method = "noaux_tc", c.scoring_func = "sigmoid", c.n_group = 16; },
       "model.n_group: expected groups of two experts or more, whose best two noaux_tc compares, "
       "got 16"},
      {[](auto& c) { c.device_aux_loss_alpha = -1; },
       "model.device_aux_loss_alpha: expected 0 to 1000, got -1"},
      {[](auto& c) { c.communication_aux_loss_alpha = 2000; },
       "model.communication_aux_loss_alpha: expected 0 to 1000, got 2000"},
      {[](auto& c) { c.device_aux_loss_alpha = 1, c.n_group = 3; },
       "model.n_group: expected a divisor of n_routed_experts 16, got 3"},
      {[](auto& c) { c.router_bias_update_rate = -1; },
       "model.router_bias_update_rate: expected 0 to 1, got -1"},
      {[](auto& c) { c.scale_normalised_weights = true; },
       "model.scale_normalised_weights: expected false when norm_topk_prob is false, got true "
       "(weights that are not normalised are always scaled)"},
      {[](auto& c) { c.balance_scope = "global"; },
       "model.balance_scope: expected sequence, micro, global_running or global_exact, got "
       "'global'"},
      {[](auto& c) { c.router_z_loss_coef = -1; },
       "model.router_z_loss_coef: expected 0 to 1000, got -1"},
      {[](auto& c) { c.capacity_factor = -1; },
       "model.capacity_factor: expected 0 to 1e+06, got -1"},
      {[](auto& c) { c.capacity_drop = "random"; },
       "model.capacity_drop: expected position or probability, got 'random'"},
      {[](auto& c) { c.device_capacity_factor = kNan; },
       "model.device_capacity_factor: expected 0 to 1e+06, got nan"},
      {[](auto& c) { c.device_capacity_factor = 1; },
       "model.n_group: expected more than 1, the devices, when device_capacity_factor is given, "
       "got 1 (as in n_group: 2)"},
      {[](auto& c) { c.topk_method = "hash", c.num_experts_per_tok = 1; },
       "model.aux_loss_alpha: expected 0 when topk_method is hash, got 0.001 (router: \"hash\" "
       "sets "
       "what goes with it)"},
      {[](auto& c) { c.topk_method = "hash", c.aux_loss_alpha = 0; },
       "model.num_experts_per_tok: expected 1 when topk_method is hash, got 4 (router: \"hash\" "
       "sets what goes with it)"},
      {[](auto& c) { c.topk_method = "expert_choice", c.norm_topk_prob = true; },
       "model.norm_topk_prob: expected false when topk_method is expert_choice, got true (router: "
       "\"expert_choice\" sets what goes with it)"},
      {[](auto& c) {
         c.topk_method = "expert_choice", c.aux_loss_alpha = 0, c.capacity_factor = 1;
       },
       "model.capacity_factor: expected 0 when topk_method is expert_choice, got 1 (router: "
       "\"expert_choice\" sets what goes with it)"},
      {[](auto& c) { c.router_jitter_noise = 1; },
       "model.router_jitter_noise: expected 0 to 0.999, got 1"},
      {[](auto& c) { c.scoring_func = "sigmoid"; },
       "model.scoring_func: expected softmax when topk_method is greedy, got sigmoid"},
      {[](auto& c) { c.first_k_dense_replace = 6; },
       "model.n_routed_experts: first_k_dense_replace and moe_layer_freq leave no layer to the "
       "experts (a dense model has n_routed_experts 0)"},
      {[](auto& c) { c.intermediate_size = 0; },
       "model.intermediate_size: expected 1 to 1048576, got 0"},
      {[](auto& c) { c.rms_norm_eps = 0; }, "model.rms_norm_eps: expected 1e-12 to 0.1, got 0"},
      {[](auto& c) { c.aux_loss_alpha = kNan; },
       "model.aux_loss_alpha: expected 0 to 1000, got nan"},
      {[](auto& c) { c.rope_scaling = YarnConfig{.factor = 0.5}; },
       "model.rope_scaling.factor: expected 1 to 1e+06, got 0.5"},
      {[](auto& c) { c.rope_scaling = YarnConfig{.beta_fast = 1.0}; },
       "model.rope_scaling.beta_fast: expected more than beta_slow 1, got 1"},
      {[](auto& c) { c.eos_token_id = c.vocab_size; },
       "model.eos_token_id: expected -1 to 8191, got 8192"},
  };
  for (const Refusal& refusal : refusals) {
    ModelConfig c;
    refusal.change(c);
    try {
      validate(c);
      ADD_FAILURE() << "not refused: " << refusal.sentence;
    } catch (const ConfigError& error) {
      EXPECT_STREQ(error.what(), refusal.sentence);
    }
  }
}

TEST(Validate, KeepsCountsOfTheLargestModelWithin64Bits) {
  ModelConfig c = v2();
  c.vocab_size = 1 << 24;
  c.hidden_size = 1 << 16;
  c.moe_intermediate_size = 1 << 17;
  c.num_hidden_layers = 1 << 10;
  c.n_routed_experts = 1 << 14;
  c.n_shared_experts = 1 << 10;
  c.num_attention_heads = 1 << 10;
  c.qk_nope_head_dim = c.qk_rope_head_dim = c.v_head_dim = 1 << 12;
  c.kv_lora_rank = c.q_lora_rank = 1 << 16;
  for (const char* kind : {"mla", "mha"}) {
    c.attention = kind;
    if (c.attention != "mla") c.head_dim = 1 << 12;
    validate(c);
    const std::int64_t total = count_parameters(c).total;
    EXPECT_GT(total, 0);
    EXPECT_LT(static_cast<double>(total) * 16.0, 9.2e18);  // bytes with both moments and gradient
  }
}

}  // namespace
}  // namespace quern
