// SPDX-License-Identifier: MIT
// Training a part of a model: what is trained learns as it would among all, and the rest stays.
#include "quern/recipes/finetune.h"

#include <gtest/gtest.h>

#include "quern/data/atomic_file.h"
#include "quern/recipes/checkpoint.h"
#include "quern/recipes/checkpoint_folder.h"
#include "quern/recipes/dry_run.h"
#include "quern/recipes/expert_scores.h"
#include "quern/recipes/run.h"
#include "quern/recipes/stop_signal.h"
#include "tests/recipes/run_fixture.h"
#include "tests/support/toy_model.h"

namespace quern {
namespace {

using testing::parameters_of;
using testing::prepare_corpus;
using testing::same_bits;
using testing::tiny_recipe;

TEST(Finetune, Patterns) {
  EXPECT_TRUE(matches("*.mlp.gate.weight", "model.layers.1.mlp.gate.weight"));
  EXPECT_TRUE(matches("model.layers.1.*", "model.layers.1.mlp.gate.weight"));
  EXPECT_TRUE(matches("*experts*gate*", "model.layers.1.mlp.experts.0.gate_proj.weight"));
  EXPECT_TRUE(matches("*", "x"));
  EXPECT_TRUE(matches("a*b*b", "abbb"));
  EXPECT_FALSE(matches("model.layers.1.*", "model.layers.11.mlp.gate.weight"));
  EXPECT_FALSE(matches("gate", "gate.weight"));
  EXPECT_FALSE(matches("a*b", "ac"));
  EXPECT_FALSE(matches("", "x"));
}

class FinetuneTest : public ::testing::Test {
 protected:
  void SetUp() override {
    prepare_corpus(dir_, "corpus");
    recipe_ = tiny_recipe(dir_);
    recipe_.finetune.method = "experts";
    recipe_.finetune.experts_file = dir_ / "e.json";
    recipe_.finetune.frozen = {};
    select({.experts = {{1, {3, 0}}}});
  }
  void TearDown() override { set_num_threads(1); }

  void select(const ExpertSelection& selection) {
    write_file_atomically(recipe_.finetune.experts_file, to_json(selection));
  }

  TempDir dir_;
  Recipe recipe_;
};

std::vector<Tensor> weights_after(const Recipe& recipe, i64 steps) {
  Trainer trainer(recipe, make_sampler(recipe));
  for (i64 s = 0; s < steps; ++s) trainer.step(trainer.batch_of(s));
  std::vector<Tensor> all;
  for (const Parameter* p : parameters_of(trainer.model())) all.push_back(p->value.clone());
  return all;
}

bool is_selected(const std::string& name) {
  return name.find("layers.1.mlp.experts.0.") != std::string::npos ||
         name.find("layers.1.mlp.experts.3.") != std::string::npos;
}

TEST_F(FinetuneTest, WhatIsNotSelectedKeepsItsBits) {
  recipe_.model.topk_method = "noaux_tc";  // whose bias is no parameter, and stays too
  recipe_.model.scoring_func = "sigmoid";
  recipe_.model.norm_topk_prob = true;
  Trainer trainer(recipe_, make_sampler(recipe_));
  std::vector<Tensor> before;
  for (const Parameter* p : parameters_of(trainer.model())) before.push_back(p->value.clone());
  for (i64 s = 0; s < 5; ++s) trainer.step(trainer.batch_of(s));
  const auto after = parameters_of(trainer.model());
  i64 held = 0, trained = 0;
  for (size_t i = 0; i < after.size(); ++i) {
    const Parameter& p = *after[i];
    EXPECT_EQ(same_bits(before[i], p.value), !is_selected(p.name)) << p.name;
    EXPECT_EQ(p.trainable, is_selected(p.name)) << p.name;
    EXPECT_EQ(p.grad.defined(), p.trainable) << p.name;
    trained += p.trainable ? p.value.numel() : 0;
  }
  trainer.optimizer().visit(
      [&](const Parameter&, const Tensor& m, const Tensor&) { held += m.numel(); });
  EXPECT_EQ(held, 2 * 3 * 16 * 8);
  EXPECT_EQ(trained, held);
  EXPECT_EQ(count_trained(recipe_), held);
  EXPECT_FALSE(trainer.model().layers[0].dense->gate_up.grad.defined());
  const Moe& moe = *trainer.model().layers[1].moe;
  EXPECT_EQ(moe.gate_up.grad.numel(), 2 * 2 * 8 * 16);
  for (const double b : moe.router.choice.bias.cast(DType::f64).span<double>()) EXPECT_EQ(b, 0);
}

// The first gradient of what is selected is the one it has where all is trained.
TEST_F(FinetuneTest, GradientsAreThoseOfTrainingAll) {
  for (const bool recompute : {false, true}) {
    recipe_.train.recompute = recompute;
    Recipe full = recipe_;
    full.finetune = {};
    Trainer part(recipe_, make_sampler(recipe_)), all(full, make_sampler(full));
    part.step(part.batch_of(0));
    all.step(all.batch_of(0));
    const auto some = parameters_of(part.model()), whole = parameters_of(all.model());
    i64 compared = 0;
    for (size_t i = 0; i < some.size(); ++i) {
      if (!some[i]->trainable) continue;
      EXPECT_TRUE(same_bits(some[i]->grad, whole[i]->grad)) << some[i]->name;
      ++compared;
    }
    EXPECT_EQ(compared, 6);
  }
}

TEST_F(FinetuneTest, LanesThreadsAndRecomputingGiveTheSameBits) {
  recipe_.train.lanes = 2;
  const auto weights = weights_after(recipe_, 4);
  recipe_.train.recompute = true;
  set_num_threads(2);
  const auto again = weights_after(recipe_, 4);
  for (size_t i = 0; i < weights.size(); ++i) EXPECT_TRUE(same_bits(weights[i], again[i])) << i;
}

TEST_F(FinetuneTest, FrozenPatterns) {
  recipe_.finetune = {.frozen = {"*.mlp.gate.weight", "model.embed_tokens.weight"}};
  Trainer trainer(recipe_, make_sampler(recipe_));
  for (const Parameter* p : parameters_of(trainer.model())) {
    const bool frozen = p->kind == ParamKind::router || p->kind == ParamKind::embedding;
    EXPECT_EQ(p->trainable, !frozen) << p->name;
  }
  recipe_.finetune.frozen = {"*.gate.weigth"};
  EXPECT_THROW(Trainer(recipe_, make_sampler(recipe_)), ConfigError);
  recipe_.finetune.frozen = {"*.experts.1.gate_proj.weight"};  // and not its other half
  EXPECT_THROW(Trainer(recipe_, make_sampler(recipe_)), ConfigError);
  recipe_.finetune.frozen = {"*"};
  EXPECT_THROW(Trainer(recipe_, make_sampler(recipe_)), ConfigError);
}

TEST_F(FinetuneTest, SwitchesOfTheSelection) {
  select({.experts = {{1, {2}}}, .non_expert_modules = true});
  Trainer trainer(recipe_, make_sampler(recipe_));
  for (const Parameter* p : parameters_of(trainer.model())) {
    const bool selected = p->name.find(".experts.2.") != std::string::npos;
    const bool expert = p->kind == ParamKind::routed_expert || p->kind == ParamKind::shared_expert;
    EXPECT_EQ(p->trainable, selected || !expert) << p->name;
  }
  select({.experts = {{1, {}}}});
  EXPECT_THROW(Trainer(recipe_, make_sampler(recipe_)), ConfigError);
}

TEST_F(FinetuneTest, LayersWithoutSelectedExpertsCountAsNone) {
  recipe_.model.num_hidden_layers = 3;
  select({.experts = {}, .non_expert_modules = true});
  EXPECT_NE(trained_text({}, recipe_).find(": 0 to 0 of the 4 experts of a layer, 0 % of all"),
            std::string::npos)
      << trained_text({}, recipe_);
  select({.experts = {{2, {3, 0}}}});
  EXPECT_NE(trained_text({}, recipe_).find(": 0 to 2 of the 4 experts of a layer, 25 % of all"),
            std::string::npos)
      << trained_text({}, recipe_);
}

double figure_of(const Recipe& recipe, const std::string& what) {
  for (const Figure& f : dry_run(recipe)) {
    if (f.what == what) return f.value;
  }
  ADD_FAILURE() << what;
  return 0;
}

TEST_F(FinetuneTest, ADryRunCountsWhatPatternsLeave) {
  const double all = double(count_parameters(recipe_.model).total);
  recipe_.data.train[0].path = dir_ / "none";  // no step is tried
  recipe_.finetune = {.frozen = {"*.mlp.gate.weight"}};
  EXPECT_EQ(figure_of(recipe_, "trained parameters"), all - 4 * 16);
  EXPECT_EQ(figure_of(recipe_, "  of gradients and moments"), 3 * 4 * (all - 4 * 16));
  recipe_.finetune = {.method = "lora", .lora_rank = 2, .lora_targets = {"o_proj"}};
  EXPECT_EQ(figure_of(recipe_, "trained parameters"), 2 * 2 * (16 + 8));
}

// A signal while experts are scored: there is nothing yet to go on from.
TEST_F(FinetuneTest, StoppedBeforeItHasBegunLeavesNothing) {
  recipe_.train.steps = 6;
  Recipe base = recipe_;
  base.finetune = {};
  ASSERT_EQ(train_run(base, dir_ / "base"), ExitCode::kDone);
  recipe_.train.init_from = dir_ / "base";
  recipe_.finetune.experts_file = "";
  {
    const StopSignals signals;
    raise(SIGTERM);
    EXPECT_EQ(train_run(recipe_, dir_ / "tuned"), ExitCode::kInterrupted);
  }
  EXPECT_FALSE(std::filesystem::exists(dir_ / "tuned"));
  EXPECT_EQ(train_run(recipe_, dir_ / "tuned"), ExitCode::kDone);
}

TEST_F(FinetuneTest, ARunSelectsItsExpertsAndResumesBitForBit) {
  Recipe base = tiny_recipe(dir_);
  base.train.steps = 20;
  base.train.eval_every = 0;
  ASSERT_EQ(train_run(base, dir_ / "base"), ExitCode::kDone);
  Recipe tune = base;
  tune.train.init_from = dir_ / "base";
  tune.train.checkpoint_every = 10;
  tune.train.keep_checkpoints = 10;
  tune.finetune.method = "experts";
  tune.finetune.threshold = 0.3;
  tune.finetune.score_tokens = 512;
  ASSERT_EQ(train_run(tune, dir_ / "tuned"), ExitCode::kDone);
  const ExpertSelection selection = read_expert_selection(dir_ / "tuned/experts.json");
  const ExpertScores scores = read_expert_scores(dir_ / "tuned/expert_scores.json");
  EXPECT_EQ(selection, select_experts(scores.token, 0.3));
  const Recipe resolved = load_recipe((dir_ / "tuned/recipe.textproto").string());
  EXPECT_EQ(resolved.model.aux_loss_alpha, 0);  // balance_losses is off

  const auto copy = testing::cut_back(dir_ / "tuned", 10, dir_ / "moved");
  std::filesystem::copy_file(dir_ / "tuned/experts.json", copy / "experts.json");
  std::filesystem::remove(dir_ / "tuned/experts.json");
  ASSERT_EQ(resume_run(copy), ExitCode::kDone);
  testing::expect_same_checkpoint(copy / "checkpoints/step-000020",
                                  dir_ / "tuned/checkpoints/step-000020");
}

}  // namespace
}  // namespace quern
