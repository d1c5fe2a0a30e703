// SPDX-License-Identifier: MIT
#include "quern/recipes/collapse_alarm.h"

#include <gtest/gtest.h>

namespace quern {
namespace {

using Load = std::vector<double>;
using Warnings = std::vector<std::string>;

constexpr int kWindow = int(CollapseAlarm::kWindow);

// Layers 1 and 2 have experts.
ModelConfig model() {
  ModelConfig c;
  c.num_hidden_layers = 3;
  c.n_routed_experts = 8;
  c.num_experts_per_tok = 1;
  return c;
}

// The warnings of so many steps with these loads of the second MoE layer; the first one is even.
Warnings feed(CollapseAlarm& alarm, int steps, const Load& load) {
  Warnings all;
  for (int i = 0; i < steps; ++i) {
    const Warnings now = alarm.look({.expert_load = {Load(8, 1.0), load}, .router = {}});
    all.insert(all.end(), now.begin(), now.end());
  }
  return all;
}

const Load kEven(8, 1.0), kTwoDead = {0, 2, 1, 1, 1, 1, 0, 2}, kOneDead = {0, 2, 1, 1, 1, 1, 1, 1},
                          kOneTakesAll = {0.02, 7.84, 0.02, 0.02, 0.02, 0.03, 0.03, 0.02};

TEST(CollapseAlarm, SaysOnceWhichExpertsAreDead) {
  CollapseAlarm alarm(model());
  EXPECT_EQ(feed(alarm, kWindow - 1, kTwoDead), Warnings{});
  const Warnings expected = {
      "model.layers.2.mlp: 2 of 8 experts had no token in the last 50 steps"};
  EXPECT_EQ(feed(alarm, 1, kTwoDead), expected);
  EXPECT_EQ(feed(alarm, 3 * kWindow, kTwoDead), Warnings{});
  EXPECT_EQ(feed(alarm, kWindow, kOneDead), Warnings{});  // not recovered: half of it is left
  EXPECT_EQ(feed(alarm, kWindow, kTwoDead), Warnings{});
  EXPECT_EQ(feed(alarm, kWindow, kEven), Warnings{});
  EXPECT_EQ(feed(alarm, kWindow - 1, kTwoDead), Warnings{});
  EXPECT_EQ(feed(alarm, 1, kTwoDead), expected);  // the next episode
}

TEST(CollapseAlarm, SaysWhichExpertTakesAll) {
  CollapseAlarm alarm(model());
  EXPECT_EQ(feed(alarm, kWindow, kOneTakesAll),
            Warnings{"model.layers.2.mlp: expert 1 was chosen by 98% of the tokens in the last 50 "
                     "steps"});
  EXPECT_EQ(feed(alarm, kWindow, kOneTakesAll), Warnings{});
}

TEST(CollapseAlarm, IsSilentWhereLoadIsUnevenOnly) {
  CollapseAlarm alarm(model());
  EXPECT_EQ(feed(alarm, 2 * kWindow, {3, 0.1, 0.2, 0.5, 0.7, 1.5, 1, 1}), Warnings{});
  EXPECT_EQ(feed(alarm, 2 * kWindow, kOneDead), Warnings{});
  // Dead in a step, not in all of them.
  for (int i = 0; i < 4 * kWindow; ++i) {
    EXPECT_EQ(feed(alarm, 1, i % 2 == 0 ? kTwoDead : kEven), Warnings{});
  }
  // Where each token chooses half of the experts, one that all choose has twice its share.
  ModelConfig c = model();
  c.num_experts_per_tok = 4;
  CollapseAlarm other(c);
  EXPECT_EQ(feed(other, 2 * kWindow, {2, 1, 1, 1, 1, 1, 0.5, 0.5}), Warnings{});
}

TEST(CollapseAlarm, DenseModelsHaveNothingToCollapse) {
  ModelConfig c = model();
  c.n_routed_experts = 0;
  CollapseAlarm alarm(c);
  EXPECT_EQ(feed(alarm, 2 * kWindow, kTwoDead), Warnings{});
}

}  // namespace
}  // namespace quern
