// SPDX-License-Identifier: MIT
// Experts cut into segments: the function stays, and what would change it is refused.
#include "quern/layers/resegment.h"

#include <gtest/gtest.h>

#include "quern/autograd/error.h"
#include "tests/layers/model_step.h"

namespace quern {
namespace {

using namespace testing;

ModelConfig splittable(ModelConfig c) {
  c.moe_intermediate_size = 12;
  return c;
}

std::vector<ModelConfig> routers() {
  std::vector<ModelConfig> all = {toy_config(), normalised(toy_config()),
                                  group_limited(toy_config()), noaux_tc(toy_config())};
  all.push_back(normalised(toy_config()));
  all.back().routed_scaling_factor = 3;
  all.back().scale_normalised_weights = true;
  all.push_back(normalised(toy_config()));  // one expert is not normalised
  all.back().num_experts_per_tok = 1;
  all.back().routed_scaling_factor = 2;
  all.push_back(toy_config());
  all.back().num_nextn_predict_layers = 1;
  all.back().n_shared_experts = 0;
  for (ModelConfig& c : all) {
    c = splittable(c);
    if (c.topk_method == "noaux_tc") c.n_group = c.topk_group = 1;
  }
  return all;
}

Model split(Model& from, i64 parts, double noise = 0) {
  Model to(resegmented(from.config, parts), DType::f64);
  resegment(from, to, parts, noise, 1);
  return to;
}

// The choices must be those of the whole experts, so biases are there to steer them.
void set_biases(Model& model) {
  model.visit_blocks([](Block& layer) {
    if (!layer.moe || !layer.moe->router.noaux_tc) return;
    fill_normal(layer.moe->router.choice.bias, Random(4, layer.name), 0.2);
  });
}

TEST(Resegment, TwoStepsOfTwoLeaveTheLogits) {
  for (const ModelConfig& c : routers()) {
    Model whole = random_model(c);
    set_biases(whole);
    Model halves = split(whole, 2), quarters = split(halves, 2);
    const ModelConfig& fine = quarters.config;
    EXPECT_EQ(fine.n_routed_experts, 4 * c.n_routed_experts);
    EXPECT_EQ(fine.num_experts_per_tok, 4 * c.num_experts_per_tok);
    EXPECT_EQ(fine.moe_intermediate_size, 3);
    EXPECT_EQ(count_parameters(fine).routed_experts, count_parameters(c).routed_experts);
    const Tensor ids = random_ids({3, 11}, c.vocab_size);
    const Tensor expected = logits_of(whole, ids);
    for (Model* model : {&halves, &quarters}) {
      EXPECT_LT(largest_difference(logits_of(*model, ids), expected), 1e-12);
    }
    Model once = split(whole, 4);
    EXPECT_TRUE(same_bits(logits_of(once, ids), logits_of(quarters, ids)));
  }
}

// The balance losses are means over experts, so they stay as well; and so does what training adds.
TEST(Resegment, LeavesTheAuxiliaryLoss) {
  for (const ModelConfig& c : routers()) {
    Model whole = random_model(c);
    Model fine = split(whole, 3);
    const Tensor ids = random_ids({2, 9}, c.vocab_size);
    const TrainingStep step;
    Tape silent(false);
    const ModelOutput a = whole.forward(silent, ids, {}, {.step = &step});
    const ModelOutput b = fine.forward(silent, ids, {}, {.step = &step});
    EXPECT_NEAR(a.aux_loss.item(), b.aux_loss.item(), 1e-12);
    for (size_t i = 0; i < a.nextn.size(); ++i) {
      EXPECT_LT(largest_difference(a.nextn[i].value(), b.nextn[i].value()), 1e-12);
    }
  }
}

TEST(Resegment, NoiseLetsSegmentsPart) {
  Model whole = random_model(splittable(toy_config()));
  const Model still = split(whole, 2), moved = split(whole, 2, 0.01);
  const Tensor ids = random_ids({1, 8}, 53);
  EXPECT_GT(largest_difference(logits_of(moved, ids), logits_of(still, ids)), 1e-6);
  const Tensor& gate = moved.layers[1].moe->router.gate.weight.value;
  const double apart = largest_difference(gate.rows(0, 1), gate.rows(1, 2));
  EXPECT_GT(apart, 1e-3 * 0.3);
  EXPECT_LT(apart, 0.1 * 0.3);
}

TEST(Resegment, RefusesWhatWouldBeAnotherFunction) {
  const auto key_of = [](const ModelConfig& c, i64 parts) -> std::string {
    try {
      resegmented(c, parts);
    } catch (const ConfigError& error) {
      return error.facts().key;
    }
    return "";
  };
  const ModelConfig good = splittable(toy_config());
  EXPECT_EQ(key_of(good, 3), "");
  EXPECT_EQ(key_of(good, 1), "--factor");
  EXPECT_EQ(key_of(good, 5), "--factor");
  ModelConfig dense = good;
  dense.n_routed_experts = 0;
  EXPECT_EQ(key_of(dense, 2), "model.n_routed_experts");
  for (const char* method : {"hash", "expert_choice"}) {
    ModelConfig c = good;
    c.topk_method = method;
    EXPECT_EQ(key_of(c, 2), "model.topk_method");
  }
  EXPECT_EQ(key_of(splittable(noaux_tc(toy_config())), 2), "model.topk_group");
  ModelConfig many = good;
  many.n_routed_experts = 1 << 14;
  EXPECT_EQ(key_of(many, 2), "model.n_routed_experts");
}

}  // namespace
}  // namespace quern
