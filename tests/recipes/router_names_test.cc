// SPDX-License-Identifier: MIT
// model.router: what each name stands for, and what it refuses beside it.
#include <gtest/gtest.h>

#include "quern/autograd/error.h"
#include "quern/recipes/describe.h"
#include "quern/recipes/recipe.h"

namespace quern {
namespace {

ModelConfig model_of(const std::string& fields) {
  return parse_recipe(
             "model { " + fields + " } data { train { path: 'a.h5' } } train { steps: 900 }", "r")
      .model;
}

std::string sentence_of(const std::string& fields) {
  try {
    model_of(fields);
    return "accepted";
  } catch (const ConfigError& error) {
    return error.what();
  }
}

TEST(RouterNames, StandForTheFieldsOfConfigJson) {
  ModelConfig expected;
  EXPECT_TRUE(model_of("router: 'softmax_topk'") == expected);
  expected.norm_topk_prob = true;
  EXPECT_TRUE(model_of("router: 'softmax_topk_norm'") == expected);
  expected.num_experts_per_tok = 2;
  EXPECT_TRUE(model_of("router: 'top2_gshard'") == expected);
  expected.norm_topk_prob = false;
  expected.num_experts_per_tok = 1;
  EXPECT_TRUE(model_of("router: 'top1_prob'") == expected);
  expected = {};
  expected.topk_method = "noaux_tc";
  expected.scoring_func = "sigmoid";
  expected.norm_topk_prob = expected.scale_normalised_weights = true;
  EXPECT_TRUE(model_of("router: 'sigmoid_bias_norm'") == expected);
}

TEST(RouterNames, WhereScoresDoNotChooseThereIsNoBalanceLoss) {
  ModelConfig expected;
  expected.topk_method = "expert_choice";
  expected.aux_loss_alpha = 0;
  EXPECT_TRUE(model_of("router: 'expert_choice'") == expected);
  expected.topk_method = "hash";
  expected.num_experts_per_tok = 1;
  EXPECT_TRUE(model_of("router: 'hash'") == expected);
  EXPECT_EQ(sentence_of("router: 'hash' aux_loss_alpha: 0.01"),
            "r:1:24: model.aux_loss_alpha: expected 0 with router hash, got 0.01 (leave one of the "
            "two out)");
}

// Mixtral's is another way to compute the same weights.
TEST(RouterNames, TwoNamesForOneRouter) {
  EXPECT_TRUE(model_of("router: 'topk_softmax'") == model_of("router: 'softmax_topk_norm'"));
}

TEST(RouterNames, KeepWhatFits) {
  const ModelConfig c = model_of(
      "router: 'softmax_topk' topk_method: 'group_limited_greedy' n_group: 4 topk_group: 2 "
      "scoring_func: 'softmax' routed_scaling_factor: 16");
  EXPECT_EQ(c.topk_method, "group_limited_greedy");
  EXPECT_EQ(c.routed_scaling_factor, 16);
}

TEST(RouterNames, TheStoredRecipeNamesTheFieldsAlone) {
  const std::string stored = to_text(parse_recipe(
      "model { router: 'sigmoid_bias_norm' } data { train { path: 'a.h5' } } train { steps: 900 }",
      "r"));
  EXPECT_EQ(stored.find("router:"), std::string::npos);
  EXPECT_NE(stored.find("topk_method: \"noaux_tc\""), std::string::npos);
}

TEST(RouterNames, BothOrdersOfNormalisingAndScaling) {
  const std::string base = "router: 'softmax_topk_norm' routed_scaling_factor: 16 ";
  EXPECT_EQ(sentence_of(base),
            "r:1:37: model.routed_scaling_factor: expected 1 with router softmax_topk_norm, got 16 "
            "(or say scale_normalised_weights: true to normalise and then scale, as DeepSeek-V3's "
            "code does, false to leave normalised weights unscaled, as V2's does)");
  EXPECT_TRUE(model_of(base + "scale_normalised_weights: true").scale_normalised_weights);
  EXPECT_FALSE(model_of(base + "scale_normalised_weights: false").scale_normalised_weights);
  EXPECT_EQ(sentence_of("router: 'sigmoid_bias_norm' routed_scaling_factor: 2.5"), "accepted");
}

TEST(RouterNames, RefuseWhatSaysOtherwise) {
  EXPECT_EQ(sentence_of("router: 'topk_softmax' norm_topk_prob: false"),
            "r:1:32: model.norm_topk_prob: expected true with router topk_softmax, got false "
            "(leave one of the two out)");
  EXPECT_EQ(sentence_of("topk_method: 'noaux_tc' router: 'softmax_topk'"),
            "r:1:9: model.topk_method: expected greedy or group_limited_greedy with router "
            "softmax_topk, got noaux_tc (leave one of the two out)");
  EXPECT_EQ(sentence_of("router: 'top1_prob' num_experts_per_tok: 2"),
            "r:1:29: model.num_experts_per_tok: expected 1 with router top1_prob, got 2 (leave one "
            "of the two out)");
  EXPECT_EQ(sentence_of("router: 'topk_softmax' routed_scaling_factor: 2.5"),
            "r:1:32: model.routed_scaling_factor: expected 1 with router topk_softmax, got 2.5 "
            "(leave one of the two out)");
  EXPECT_EQ(sentence_of("router: 'softmax_topkk'"),
            "r:1:9: model.router: expected softmax_topk, softmax_topk_norm, topk_softmax, "
            "sigmoid_bias_norm, top1_prob, top2_gshard, two_stage, hash or expert_choice, got 'softmax_topkk' "
            "(did you mean "
            "'softmax_topk'?)");
}

// A run says with which losses it begins, also when there are none.
TEST(AuxiliaryLosses, AreNamedWithFactorAndScope) {
  EXPECT_EQ(auxiliary_losses(ModelConfig{}), "expert 0.001 of each sequence");
  EXPECT_EQ(auxiliary_losses(model_of("aux_loss_alpha: 0")), "none");
  EXPECT_EQ(auxiliary_losses(model_of("aux_loss_alpha: 0 router_z_loss_coef: 0.01")), "z 0.01");
  EXPECT_EQ(auxiliary_losses(model_of("n_group: 4 device_aux_loss_alpha: 0.05 "
                                      "communication_aux_loss_alpha: 0.02 seq_aux: false "
                                      "router_z_loss_coef: 0.01")),
            "expert 0.001, device 0.05, communication 0.02 of each micro-batch, z 0.01");
  EXPECT_EQ(auxiliary_losses(model_of("balance_scope: 'global_running'")),
            "expert 0.001 of the step so far");
}

TEST(BalanceScope, SetsWhatConfigJsonCallsSeqAux) {
  EXPECT_TRUE(model_of("balance_scope: 'sequence'") == ModelConfig{});
  ModelConfig expected;
  expected.seq_aux = false;
  EXPECT_TRUE(model_of("balance_scope: 'micro'") == expected);
  EXPECT_EQ(model_of("balance_scope: 'global_running'").balance_scope, "global_running");
  EXPECT_EQ(sentence_of("balance_scope: 'micro' seq_aux: true"),
            "r:1:32: model.seq_aux: expected false with balance_scope micro, got true (leave one "
            "of the two out)");
}

}  // namespace
}  // namespace quern
