// SPDX-License-Identifier: MIT
// What is computed does not depend on the ranks that compute it: to the last bit.
#include <gtest/gtest.h>

#include <map>
#include <optional>

#include "quern/data/atomic_file.h"
#include "quern/recipes/evaluate.h"
#include "quern/recipes/metrics.h"
#include "quern/recipes/run.h"
#include "quern/recipes/trainer.h"
#include "tests/recipes/layouts_fixture.h"
#include "tests/support/file_size_limit.h"

namespace quern {
namespace {

namespace fs = std::filesystem;
using testing::expect_same_tensors;
using testing::Layouts;
using testing::same_bytes;
using testing::world;

// Some steps on one rank and on all, compared number by number.
void compare(const Recipe& recipe) {
  Trainer alone(recipe, make_sampler(recipe));
  Trainer shared(recipe, make_sampler(recipe), {},
                 ParallelGroups(world(), recipe.distributed.ep_size));
  for (int step = 0; step < 4; ++step) {
    const StepReport a = alone.step(alone.batch_of(step)), b = shared.step(shared.batch_of(step));
    EXPECT_EQ(a.loss, b.loss);
    EXPECT_EQ(a.aux_loss, b.aux_loss);
    EXPECT_EQ(a.nextn_loss, b.nextn_loss);
    EXPECT_EQ(a.grad_norm, b.grad_norm);
    EXPECT_EQ(a.expert_load, b.expert_load);
    ASSERT_EQ(a.router.size(), b.router.size());
    for (size_t i = 0; i < a.router.size(); ++i) {
      EXPECT_EQ(a.router[i].gate_entropy, b.router[i].gate_entropy);
      EXPECT_EQ(a.router[i].expert_loss, b.router[i].expert_loss);
    }
  }
  std::map<std::string, Tensor> values, gradients;
  i64 experts = 0, experts_here = 0;
  alone.model().visit([&](Parameter& p) {
    gradients[p.name] = p.grad;
    experts += p.kind == ParamKind::routed_expert;
  });
  alone.model().visit_tensors([&](const std::string& n, const Tensor& t) { values[n] = t; });
  shared.model().visit([&](Parameter& p) {
    EXPECT_TRUE(same_bytes(gradients.at(p.name), p.grad)) << p.name << " gradient";
    experts_here += p.kind == ParamKind::routed_expert;
  });
  EXPECT_EQ(experts_here * recipe.distributed.ep_size, experts);
  shared.model().visit_tensors([&](const std::string& name, const Tensor& t) {
    EXPECT_TRUE(same_bytes(values.at(name), t)) << name;
  });
}

// With experts on all ranks, and spread over two and more of them.
void compare_layouts(Recipe recipe) {
  for (int ep = 1; ep <= world().size(); ep *= 2) {
    SCOPED_TRACE("ep_size " + std::to_string(ep));
    recipe.distributed.ep_size = ep;
    validate(recipe);
    compare(recipe);
  }
}

TEST_F(Layouts, LossAndGradientsAreThoseOfOneRank) { compare(recipe_); }

TEST_F(Layouts, WithExpertsSpreadOverRanks) {
  for (recipe_.distributed.ep_size = 2; recipe_.distributed.ep_size <= world().size();
       recipe_.distributed.ep_size *= 2) {
    for (const char* dtype : {"fp32", "bf16"}) {
      recipe_.train.dtype = dtype;
      for (const i64 lanes : {4, 8}) {
        recipe_.train.lanes = lanes;
        compare(recipe_);
      }
    }
    recipe_.train.recompute = true;
    compare(recipe_);
    recipe_.train.recompute = false;
  }
}

TEST_F(Layouts, WithMomentsOnOneRankEach) {
  recipe_.distributed.shard_optimizer = true;
  compare(recipe_);
  recipe_.train.dtype = "bf16";
  recipe_.distributed.ep_size = 2;
  compare(recipe_);
  recipe_.optim.moments_dtype = "bf16";
  compare(recipe_);
}

// Most ranks have no token for most others.
TEST_F(Layouts, WithSpreadExpertsThatFewTokensChoose) {
  recipe_.distributed.ep_size = 2;
  recipe_.model.num_experts_per_tok = 1;
  recipe_.data.sequence_length = 2;
  recipe_.train.micro_batch_sequences = 1;
  recipe_.train.lanes = 16;
  compare(recipe_);
}

TEST_F(Layouts, InMixedPrecisionToo) {
  recipe_.train.dtype = "bf16";
  compare(recipe_);
}

TEST_F(Layouts, WithARouterThatIsBalancedByItsBias) {
  recipe_.model.topk_method = "noaux_tc";
  recipe_.model.scoring_func = "sigmoid";
  recipe_.model.norm_topk_prob = true;
  recipe_.model.router_bias_update_rate = 0.01;
  compare(recipe_);
}

// Groups are those of the config, four here, whatever the number of ranks. Three experts of a token
// within two groups of two: the limit binds.
TEST_F(Layouts, WithGroupsOfExperts) {
  recipe_.model.n_routed_experts = 8;
  recipe_.model.num_experts_per_tok = 3;
  recipe_.model.topk_method = "group_limited_greedy";
  recipe_.model.n_group = 4;
  recipe_.model.topk_group = 2;
  recipe_.model.device_aux_loss_alpha = 0.05;
  recipe_.model.communication_aux_loss_alpha = 0.02;
  compare_layouts(recipe_);
}

TEST_F(Layouts, WithMultiTokenPrediction) {
  recipe_.model.num_nextn_predict_layers = 2;
  compare_layouts(recipe_);
  recipe_.train.recompute = true;
  recipe_.train.dtype = "bf16";
  compare_layouts(recipe_);
}

TEST_F(Layouts, WithBalanceOverTheWholeStep) {
  recipe_.model.balance_scope = "global_exact";
  recipe_.model.aux_loss_alpha = 0.5;
  compare_layouts(recipe_);
  recipe_.model.num_nextn_predict_layers = 1;
  recipe_.train.lanes = 8;
  recipe_.train.recompute = true;
  compare_layouts(recipe_);
}

TEST_F(Layouts, LanesAreSharedEvenly) {
  recipe_.train.lanes = 1;
  EXPECT_THROW(compare(recipe_), ConfigError);
}

TEST_F(Layouts, AnEvaluationIsSharedAndComesToTheSame) {
  for (const i64 ep : {i64{1}, i64{world().size()}}) {
    const ParallelGroups groups(world(), ep);
    Model alone(recipe_.model), shared(recipe_.model, DType::f32, groups.ep);
    alone.initialise(3);
    shared.initialise(3);
    const std::vector files = {std::make_shared<const TokenFile>(recipe_.data.train[0].path)};
    EvaluateOptions options{.sequence_length = 16, .micro_batch_sequences = 3};
    const EvalMetrics a = evaluate(alone, files, options);
    options.ranks = world();
    const EvalMetrics b = evaluate(shared, files, options);
    EXPECT_EQ(a.bits_per_byte, b.bits_per_byte);
    EXPECT_EQ(a.standard_error, b.standard_error);
    EXPECT_GT(a.standard_error, 0);
    ASSERT_EQ(a.by_position.size(), b.by_position.size());
    EXPECT_EQ(a.by_position[7].loss, b.by_position[7].loss);
  }
}

// Whole runs: what all ranks leave is what one does.
TEST_F(Layouts, ARunHasTheCheckpointsOfOneRank) {
  recipe_.train.steps = 20;
  recipe_.train.checkpoint_every = 10;
  recipe_.train.eval_every = 10;
  recipe_.train.sample_every = 10;
  recipe_.train.sample_prompts = {"the sea"};
  recipe_.train.sample_tokens = 5;
  if (world().rank() == 0) {
    ASSERT_EQ(train_run(recipe_, shared_ / "alone"), ExitCode::kDone);
  }
  ASSERT_EQ(train_run(recipe_, shared_ / "shared", {}, world()), ExitCode::kDone);
  if (world().rank() != 0) return;
  for (const i64 step : {10, 20}) {
    expect_same_tensors(checkpoint_path(shared_ / "alone", step),
                        checkpoint_path(shared_ / "shared", step));
  }
  testing::expect_steps_once(shared_ / "shared", 20);
  const RunHistory one = read_metrics(shared_ / "alone/metrics.jsonl");
  const RunHistory all = read_metrics(shared_ / "shared/metrics.jsonl");
  ASSERT_EQ(one.evals.size(), all.evals.size());
  for (size_t i = 0; i < one.evals.size(); ++i) {
    EXPECT_EQ(one.evals[i].bits_per_byte, all.evals[i].bits_per_byte);
  }
  ASSERT_EQ(one.samples.size(), all.samples.size());
  EXPECT_EQ(one.samples.back().text, all.samples.back().text);
}

// The disk of the last rank is full.
TEST_F(Layouts, ASaveThatFailsOnOneRankWarnsAndHarmsNothing) {
  recipe_.train.steps = 12;
  recipe_.train.checkpoint_every = 4;
  recipe_.train.keep_checkpoints = 3;
  recipe_.train.background_save = true;
  recipe_.train.on_save_error = "warn";
  const fs::path whole = shared_ / "whole", run = shared_ / "run";
  ASSERT_EQ(train_run(recipe_, whole, {}, world()), ExitCode::kDone);
  if (world().rank() == 0) testing::cut_back(whole, 4, run);
  world().barrier();
  {
    std::optional<testing::FileSizeLimit> limit;
    if (world().rank() == world().size() - 1) limit.emplace(1000);
    EXPECT_THROW(resume_run(run, {}, world()), IoError);  // the save at the end has to succeed
  }
  if (world().rank() == 0) {
    EXPECT_EQ(testing::count_events(run, "save failed"), 1);
    EXPECT_EQ(read_metrics(run / "metrics.jsonl").steps.size(), 12u);
    const std::vector<fs::path> left = list_checkpoints(run);
    ASSERT_EQ(left.size(), 1u);
    expect_same_tensors(checkpoint_path(whole, 4), left[0]);
  }
  ASSERT_EQ(resume_run(run, {}, world()), ExitCode::kDone);
  if (world().rank() != 0) return;
  expect_same_tensors(checkpoint_path(whole, 12), checkpoint_path(run, 12));
  testing::expect_steps_once(run, 12);
}

// From one rank to all, laid out in each way, and back to one.
TEST_F(Layouts, ARunGoesOnWithOtherRanks) {
  recipe_.model.num_nextn_predict_layers = 1;
  recipe_.train.steps = 20;
  recipe_.train.checkpoint_every = 10;
  const fs::path whole = shared_ / "whole";
  if (world().rank() == 0) {
    ASSERT_EQ(train_run(recipe_, whole), ExitCode::kDone);
  }
  for (const bool shard : {false, true}) {
    for (int ep = 1; ep <= world().size(); ep *= 2) {
      const std::string name = std::to_string(ep) + (shard ? "_sharded" : "");
      const fs::path cut = shared_ / name, back = shared_ / (name + "_back");
      if (world().rank() == 0) {
        testing::cut_back(whole, 10, cut);
        Recipe laid_out = load_recipe((cut / "recipe.textproto").string());
        laid_out.distributed.ep_size = ep;
        laid_out.distributed.shard_optimizer = shard;
        write_file_atomically(cut / "recipe.textproto", to_text(laid_out));
      }
      world().barrier();
      ASSERT_EQ(resume_run(cut, {}, world()), ExitCode::kDone);
      if (world().rank() != 0) continue;
      expect_same_tensors(checkpoint_path(whole, 20), checkpoint_path(cut, 20));
      testing::cut_back(cut, 10, back);
      write_file_atomically(back / "recipe.textproto", to_text(recipe_));
      ASSERT_EQ(resume_run(back), ExitCode::kDone);
      expect_same_tensors(checkpoint_path(whole, 20), checkpoint_path(back, 20));
    }
  }
}

}  // namespace
}  // namespace quern
