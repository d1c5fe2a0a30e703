// SPDX-License-Identifier: MIT
// Learning from a larger checkpoint's logits.
#include "quern/recipes/distillation.h"

#include <gtest/gtest.h>

#include <cmath>

#include "quern/recipes/checkpoint.h"
#include "quern/recipes/dry_run.h"
#include "quern/recipes/metrics.h"
#include "quern/recipes/run.h"
#include "quern/recipes/trainer.h"
#include "tests/recipes/run_fixture.h"

namespace quern {
namespace {

class DistillationTest : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::prepare_corpus(dir_, "corpus");
    recipe_ = testing::tiny_recipe(dir_);
    recipe_.train.steps = 40;
    recipe_.train.eval_every = 0;
    recipe_.train.dtype = "fp32";
    Recipe large = recipe_;
    large.model.hidden_size = 24;
    ASSERT_EQ(train_run(large, dir_ / "large"), ExitCode::kDone);
    recipe_.finetune.distill_from = dir_ / "large";
  }
  void TearDown() override { set_num_threads(1); }

  // KL(theirs || ours) at temperature 1, mean over the tokens of a batch, after so many steps.
  double distance_after(const Recipe& recipe, i64 steps) const {
    Trainer trainer(recipe, make_sampler(recipe));
    for (i64 s = 0; s < steps; ++s) trainer.step(trainer.batch_of(s));
    Model teacher(read_checkpoint_info(dir_ / "large").model);
    load_weights(dir_ / "large", teacher);
    const Batch batch = trainer.batch_of(100);
    Tape silent(false);
    const Model& pupil = trainer.model();
    const ModelOutput ours = pupil.forward(silent, batch.tokens);
    const ModelOutput theirs = teacher.forward(silent, batch.tokens);
    const Tensor labels = batch.labels.reshape({batch.labels.numel()});
    return ops::linear_distillation(silent, ours.hidden, silent.parameter(pupil.head()),
                                    {theirs.hidden.value(), teacher.head().operand()}, labels, 1,
                                    1.0 / double(labels.numel()))
        .item();
  }

  TempDir dir_;
  Recipe recipe_;
};

TEST_F(DistillationTest, ThePupilComesNearerThanByTheTextAlone) {
  Recipe alone = recipe_;
  alone.finetune.distill_from.clear();
  recipe_.finetune.distill_alpha = 1;
  recipe_.finetune.distill_temperature = 1;
  const double at_first = distance_after(recipe_, 0), taught = distance_after(recipe_, 40);
  EXPECT_LT(taught, 0.7 * at_first);
  EXPECT_LT(taught, 0.9 * distance_after(alone, 40));
  // Nothing of the teacher: the same run as without one.
  recipe_.finetune.distill_alpha = 0;
  EXPECT_DOUBLE_EQ(distance_after(recipe_, 3), distance_after(alone, 3));
}

// Its weights, what it computes forward with them, and no more than a step's tokens beside.
TEST_F(DistillationTest, ADryRunCountsTheTeacher) {
  Recipe alone = recipe_;
  alone.finetune.distill_from.clear();
  const auto figure = [](Recipe recipe, const std::string& what) {
    recipe.data.train[0].path = "none";  // no step is tried
    for (const Figure& f : dry_run(recipe)) {
      if (f.what == what) return f.value;
    }
    return 0.0;
  };
  const ModelConfig large = read_checkpoint_info(dir_ / "large").model;
  const double weights = 4 * double(count_parameters(large).total);
  const double tokens = double(recipe_.train.micro_batch_sequences * recipe_.data.sequence_length);
  const double bytes = figure(recipe_, "  of the teacher");
  EXPECT_GT(bytes, weights + 4 * tokens * 300);  // the logits
  EXPECT_LT(bytes, weights + 4 * tokens * 300 * 4);
  EXPECT_EQ(figure(recipe_, "memory (estimate)"), figure(alone, "memory (estimate)") + bytes);
  EXPECT_EQ(figure(recipe_, "FLOPs per token of the teacher"), flops_per_token(large, 16) / 3);
  EXPECT_EQ(figure(alone, "  of the teacher"), 0);
  recipe_.train.dtype = "bf16";
  EXPECT_GT(figure(recipe_, "  of the teacher"), 1.5 * weights);
}

TEST_F(DistillationTest, OfTheSameTokenizerAlone) {
  testing::prepare_corpus(dir_, "foreign", 100);
  recipe_.data.train[0].path = dir_ / "foreign/train.h5";
  EXPECT_THROW(Trainer(recipe_, make_sampler(recipe_)), ConfigError);
}

// The teacher is the checkpoint that the run began with, whatever has become of its run since.
TEST_F(DistillationTest, AResumedRunKeepsItsTeacher) {
  recipe_.train.steps = 20;
  recipe_.train.checkpoint_every = 10;
  ASSERT_EQ(train_run(recipe_, dir_ / "whole"), ExitCode::kDone);
  Model later(read_checkpoint_info(dir_ / "large").model);
  later.initialise(7);
  const std::string recipe = read_checkpoint_info(dir_ / "large").context.recipe;
  const std::string tokenizer = read_checkpoint_info(dir_ / "large").context.tokenizer_sha256;
  save_checkpoint(dir_ / "large", later, AdamW({}, {}, {}), {.step = 99}, {recipe, tokenizer});
  const auto cut = testing::cut_back(dir_ / "whole", 10, dir_ / "cut");
  ASSERT_EQ(resume_run(cut), ExitCode::kDone);
  testing::expect_same_checkpoint(checkpoint_path(dir_ / "whole", 20), checkpoint_path(cut, 20));
}

TEST_F(DistillationTest, MixedPrecision) {
  recipe_.train.dtype = "bf16";
  Trainer trainer(recipe_, make_sampler(recipe_));
  EXPECT_TRUE(std::isfinite(trainer.step(trainer.batch_of(0)).grad_norm));
}

// Evaluations after the best one are waited for, and then the run is its best checkpoint.
TEST_F(DistillationTest, PatienceEndsARunAtItsBest) {
  Recipe recipe = recipe_;
  recipe.finetune.distill_from.clear();
  recipe.train.steps = 400;
  recipe.train.checkpoint_every = 10;
  recipe.train.eval_every = 10;
  recipe.train.patience = 3;
  recipe.optim.schedule = "constant";
  recipe.optim.lr = 0.1;  // soon past the best
  recipe.guard.on_spike = "off";
  ASSERT_EQ(train_run(recipe, dir_ / "short"), ExitCode::kDone);
  const i64 best = read_checkpoint_info(dir_ / "short").progress.step;
  EXPECT_LT(best, 400);
  EXPECT_EQ(best % 10, 0);
  EXPECT_EQ(testing::count_events(dir_ / "short", "stopped early"), 1);
  EXPECT_EQ(step_of(list_checkpoints(dir_ / "short").back()), best);
  // By its own figures: none up to there is better, and a run without patience goes on.
  const RunHistory history = read_metrics(dir_ / "short/metrics.jsonl");
  double least = INFINITY;
  for (const EvalMetrics& e : history.evals) least = std::min(least, e.bits_per_byte);
  EXPECT_EQ(history.evals.back().bits_per_byte, least);
  EXPECT_EQ(history.evals.back().step, best);
  EXPECT_TRUE(std::filesystem::exists(dir_ / "short/finished"));
}

}  // namespace
}  // namespace quern
