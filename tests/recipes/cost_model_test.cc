// SPDX-License-Identifier: MIT
// The cost model against sums done by hand.
#include "quern/recipes/cost_model.h"

#include <gtest/gtest.h>

namespace quern {
namespace {

// One dense layer and two with 8 experts, 2 for each token.
Recipe recipe_of_layers() {
  Recipe r;
  r.model.num_hidden_layers = 3;
  r.model.first_k_dense_replace = 1;
  r.model.hidden_size = 64;
  r.model.n_routed_experts = 8;
  r.model.num_experts_per_tok = 2;
  r.train.dtype = "fp32";
  r.train.batch_sequences = 32;
  r.train.micro_batch_sequences = 4;
  r.data.sequence_length = 100;
  return r;
}

ComputeCost compute_of(double seconds) {
  return {.samples = {{1, seconds}, {8, 8 * seconds}}, .optimizer_s = 0.5, .expert_load = {}};
}

const NetworkCost kFree = {};

TEST(ComputeCost, LiesOnTheLinesBetweenSamples) {
  const ComputeCost cost{
      .samples = {{1, 1.5}, {3, 2.5}, {5, 4.5}}, .optimizer_s = 0, .expert_load = {}};
  EXPECT_DOUBLE_EQ(cost.seconds(2), 2);
  EXPECT_DOUBLE_EQ(cost.seconds(3), 2.5);
  EXPECT_DOUBLE_EQ(cost.seconds(4), 3.5);
  EXPECT_DOUBLE_EQ(cost.seconds(10), 9.5);
  const ComputeCost one{.samples = {{2, 3}}, .optimizer_s = 0, .expert_load = {}};
  EXPECT_DOUBLE_EQ(one.seconds(6), 9);
}

TEST(OtherRanksHit, CountsEachRankOnce) {
  ModelConfig c = recipe_of_layers().model;
  EXPECT_EQ(other_ranks_hit(c, 1), 0);
  // Two of eight different experts, on two ranks of four: none on a given rank in 4/8 * 3/7.
  EXPECT_NEAR(other_ranks_hit(c, 2), 1 - 3.0 / 14, 1e-12);
  EXPECT_NEAR(other_ranks_hit(c, 8), 2 * 7.0 / 8, 1e-12);  // both elsewhere but for 1/8 of them
  c.num_experts_per_tok = 8;
  EXPECT_NEAR(other_ranks_hit(c, 4), 3, 1e-12);
  c.n_group = 4;
  c.topk_group = 2;
  EXPECT_NEAR(other_ranks_hit(c, 4), 2 * 3.0 / 4, 1e-12);  // no more devices than topk_group
}

TEST(ExpertTraffic, IsWhatATokenTakesWithIt) {
  const ModelConfig c = recipe_of_layers().model;
  EXPECT_EQ(expert_traffic(c, 1, 100, 4, false).bytes, 0);
  const double sent = 100 * (1 - 3.0 / 14), rows = 100 * 2 / 2.0;
  const double forward = 8 * 5 + sent * (64 * 4 + 16) + rows * 256;
  const double backward = sent * (64 * 4 + 8) + rows * 256;
  const Traffic t = expert_traffic(c, 2, 100, 4, false);
  EXPECT_NEAR(t.bytes, forward + backward, 1e-6);
  EXPECT_EQ(t.messages, 8);
  const Traffic twice = expert_traffic(c, 2, 100, 4, true);
  EXPECT_NEAR(twice.bytes, 2 * forward + backward, 1e-6);
  EXPECT_EQ(twice.messages, 13);
  EXPECT_NEAR(t.bytes - expert_traffic(c, 2, 100, 2, false).bytes, 2 * sent * 64 * 2, 1e-6);
}

TEST(Imbalance, IsOfTheFullestRank) {
  const std::vector<std::vector<i64>> even = {{5, 5, 5, 5}}, uneven = {{9, 3, 0, 0}, {3, 3, 3, 3}};
  EXPECT_DOUBLE_EQ(imbalance(even, 2), 1);
  EXPECT_DOUBLE_EQ(imbalance(uneven, 2), (2.0 + 1) / 2);
  EXPECT_DOUBLE_EQ(imbalance(uneven, 4), (3.0 + 1) / 2);
  EXPECT_DOUBLE_EQ(imbalance({}, 4), 1);
}

TEST(PredictStep, OfOneRankIsItsCompute) {
  const StepPrediction p = predict_step(recipe_of_layers(), {1, 1}, 2, compute_of(1), kFree);
  EXPECT_DOUBLE_EQ(p.seconds(), 2.5);
}

TEST(PredictStep, SumsGradientsOverThoseWhoHaveThem) {
  const Recipe r = recipe_of_layers();
  const ParameterCount n = count_parameters(r.model);
  const NetworkCost bytes_alone = {{}, {0, 1e-6}, {}};
  const double everywhere = 4e-6 * double(n.total - n.routed_experts);
  const double routed = 4e-6 * double(n.routed_experts);
  const auto gradients = [&](RankLayout l) {
    return predict_step(r, l, 1, compute_of(1), bytes_alone).gradients;
  };
  EXPECT_NEAR(gradients({2, 1}), everywhere + routed, 1e-9);
  EXPECT_NEAR(gradients({2, 2}), everywhere, 1e-9);
  EXPECT_NEAR(gradients({4, 2}), 1.5 * everywhere + routed / 2, 1e-9);
}

// Of a sum, as long as backward of one micro-batch; of tokens, while experts at home compute.
TEST(PredictStep, HidesAPartBehindCompute) {
  Recipe r = recipe_of_layers();
  const NetworkCost shown = {{}, {0, 1e-9}, {0, 1e-9}}, hidden = {{}, {0, 1e-9}, {0, 1e-9}, 0.5};
  const NetworkCost slow = {{}, {0, 1}, {0, 1}}, half_of_slow = {{}, {0, 1}, {0, 1}, 0.5};
  const auto predict = [&](RankLayout l, const NetworkCost& network) {
    return predict_step(r, l, 3, compute_of(1), network);
  };
  EXPECT_DOUBLE_EQ(predict({2, 1}, hidden).gradients, predict({2, 1}, shown).gradients / 2);
  EXPECT_NEAR(predict({2, 1}, slow).gradients - predict({2, 1}, half_of_slow).gradients,
              0.5 * 0.55 * compute_of(1).seconds(1), 1e-6 * predict({2, 1}, slow).gradients);
  const double out = 6e-9 * outward_traffic(r.model, 2, 400, 4, false).bytes;
  EXPECT_NEAR(predict({2, 2}, shown).experts - predict({2, 2}, hidden).experts, out / 2, 1e-15);
  EXPECT_LT(outward_traffic(r.model, 2, 400, 4, false).bytes,
            expert_traffic(r.model, 2, 400, 4, false).bytes);
}

TEST(PredictStep, SendsTokensInEachLayerAndMicroBatch) {
  const Recipe r = recipe_of_layers();
  const NetworkCost exchanges = {{}, {}, {1e-3, 1e-6}};
  const Traffic t = expert_traffic(r.model, 2, 400, 4, false);
  const StepPrediction p = predict_step(r, {2, 2}, 3, compute_of(1), exchanges);
  EXPECT_NEAR(p.experts, 6 * (1e-3 * t.messages + 1e-6 * t.bytes), 1e-9);
  EXPECT_EQ(predict_step(r, {2, 1}, 3, compute_of(1), exchanges).experts, 0);
}

TEST(PredictStep, WaitsForTheFullestRank) {
  const Recipe r = recipe_of_layers();
  ComputeCost uneven = compute_of(1);
  uneven.optimizer_s = 0;
  uneven.expert_load = {{4, 4, 0, 0, 0, 0, 0, 0}, {1, 1, 1, 1, 1, 1, 1, 1}};
  const double alone = predict_step(r, {2, 1}, 1, uneven, kFree).compute;
  const double together = predict_step(r, {2, 2}, 1, uneven, kFree).compute;
  EXPECT_DOUBLE_EQ(alone, 1);
  EXPECT_GT(together, 1.02);
  EXPECT_LT(together, 1.5);
}

TEST(PredictStep, SpreadMomentsCostMessagesAndSpareWork) {
  Recipe r = recipe_of_layers();
  const NetworkCost messages = {{}, {}, {1e-6, 1e-9}};
  const StepPrediction whole = predict_step(r, {4, 1}, 1, compute_of(1), messages);
  r.distributed.shard_optimizer = true;
  const StepPrediction spread = predict_step(r, {4, 1}, 1, compute_of(1), messages);
  EXPECT_DOUBLE_EQ(whole.compute - spread.compute, 0.5 * 3 / 4);
  EXPECT_EQ(whole.weights, 0);
  const double numbers = double(count_parameters(r.model).total);
  EXPECT_GT(spread.weights, 0.75 * 4e-9 * numbers);
  EXPECT_LT(spread.weights, 0.76 * 4e-9 * numbers + 1e-3);
  EXPECT_LT(spread.memory, whole.memory);
}

TEST(PredictLayouts, AreThoseThatDivide) {
  const std::vector<i64> ranks = {1, 6, 16};
  std::vector<std::pair<i64, i64>> found;
  for (const StepPrediction& p : predict_layouts(recipe_of_layers(), ranks, compute_of(1), kFree)) {
    found.emplace_back(p.layout.ranks, p.layout.ep_size);
    EXPECT_EQ(p.micro_batches, p.layout.ranks == 1 ? 8 : 1);
  }
  const std::vector<std::pair<i64, i64>> expected = {{1, 1},  {6, 1},  {6, 2}, {16, 1},
                                                     {16, 2}, {16, 4}, {16, 8}};
  EXPECT_EQ(found, expected);
}

TEST(Recommended, IsFastFitsAndIsSimple) {
  const auto prediction = [](i64 ep_size, double seconds, i64 memory) {
    StepPrediction p{.layout = {8, ep_size}};
    p.compute = seconds;
    p.memory = memory;
    return p;
  };
  const std::vector<StepPrediction> all = {prediction(1, 1.3, 9), prediction(2, 1.01, 5),
                                           prediction(4, 1.0, 4), prediction(8, 2.0, 1)};
  EXPECT_EQ(recommended(all, 10)->layout.ep_size, 2);  // within 2 % of the fastest
  EXPECT_EQ(recommended(all, 4)->layout.ep_size, 4);
  EXPECT_EQ(recommended(all, 2)->layout.ep_size, 8);
  EXPECT_EQ(recommended(all, 0), nullptr);
}

}  // namespace
}  // namespace quern
