// SPDX-License-Identifier: MIT
// Steps: the same however they are cut and whoever computes them.
#include "quern/recipes/trainer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "quern/autograd/kernels/parallel.h"
#include "quern/optim/grad_clip.h"
#include "tests/recipes/run_fixture.h"
#include "tests/support/toy_model.h"

namespace quern {
namespace {

using testing::bytes_of;
using testing::largest_difference;
using testing::parameters_of;
using testing::prepare_corpus;
using testing::same_bits;
using testing::tiny_recipe;

struct Outcome {
  std::vector<StepReport> reports;
  std::vector<Tensor> weights;
};

std::vector<Tensor> weights_of(Model& model) {
  std::vector<Tensor> all;
  for (const Parameter* p : parameters_of(model)) all.push_back(p->value.clone());
  return all;
}

Outcome train(const Recipe& recipe, i64 steps) {
  Trainer trainer(recipe, make_sampler(recipe));
  Outcome outcome;
  for (i64 s = 0; s < steps; ++s) outcome.reports.push_back(trainer.step(trainer.batch_of(s)));
  outcome.weights = weights_of(trainer.model());
  return outcome;
}

void expect_equal_to_rounding(const Outcome& a, const Outcome& b) {
  for (size_t s = 0; s < a.reports.size(); ++s) {
    EXPECT_NEAR(a.reports[s].loss, b.reports[s].loss, 2e-6) << "step " << s;
    EXPECT_NEAR(a.reports[s].aux_loss, b.reports[s].aux_loss, 1e-6) << "step " << s;
    EXPECT_NEAR(a.reports[s].grad_norm, b.reports[s].grad_norm, 5e-6) << "step " << s;
    EXPECT_EQ(a.reports[s].expert_load, b.reports[s].expert_load) << "step " << s;
  }
  for (size_t i = 0; i < a.weights.size(); ++i) {
    EXPECT_LT(largest_difference(a.weights[i], b.weights[i]), 2e-6) << "parameter " << i;
  }
}

class TrainerTest : public ::testing::Test {
 protected:
  void SetUp() override { prepare_corpus(dir_, "corpus"); }
  void TearDown() override { set_num_threads(1); }

  std::filesystem::path save(Trainer& trainer, const std::string& name) {
    std::filesystem::create_directories(dir_ / name);
    save_checkpoint(dir_ / name, trainer.model(), trainer.optimizer(), trainer.progress(),
                    {to_text(trainer.recipe()),
                     make_sampler(trainer.recipe())->sources()[0].file->tokenizer_sha256()});
    return checkpoint_path(dir_ / name, trainer.progress().step);
  }

  TempDir dir_;
};

TEST_F(TrainerTest, OneAndTwoThreadsMakeTheSameBytes) {
  Recipe recipe = tiny_recipe(dir_);
  recipe.model.hidden_size = 96;  // wide enough that every kernel has several chunks
  recipe.model.moe_intermediate_size = 40;
  recipe.data.sequence_length = 64;
  recipe.train.batch_sequences = 8;
  recipe.train.lanes = 2;
  for (const std::string dtype : {"fp32", "bf16"}) {
    recipe.train.dtype = recipe.optim.moments_dtype = dtype;
    std::filesystem::path saved[2];
    for (const int threads : {1, 2}) {
      set_num_threads(threads);
      Trainer trainer(recipe, make_sampler(recipe));
      for (i64 s = 0; s < 20; ++s) trainer.step(trainer.batch_of(s));
      saved[threads - 1] = save(trainer, dtype + std::to_string(threads));
    }
    for (const char* file : {"model.h5", "optimizer.h5"}) {
      EXPECT_TRUE(bytes_of(saved[0] / file) == bytes_of(saved[1] / file)) << file;
    }
  }
}

TEST_F(TrainerTest, MixedPrecisionGoesOnFromACheckpointAsIfItHadNotStopped) {
  Recipe recipe = tiny_recipe(dir_);
  recipe.train.dtype = "bf16";
  for (const std::string moments : {"fp32", "bf16"}) {
    recipe.optim.moments_dtype = moments;
    const Outcome whole = train(recipe, 6);
    Trainer first(recipe, make_sampler(recipe)), second(recipe, make_sampler(recipe));
    for (i64 s = 0; s < 3; ++s) first.step(first.batch_of(s));
    second.restore(save(first, moments));
    for (i64 s = 3; s < 6; ++s) {
      EXPECT_EQ(second.step(second.batch_of(s)).loss, whole.reports[size_t(s)].loss);
    }
    const std::vector<Tensor> weights = weights_of(second.model());
    for (size_t i = 0; i < weights.size(); ++i) {
      EXPECT_TRUE(same_bits(weights[i], whole.weights[i])) << "parameter " << i;
    }
    second.model().visit([](Parameter& p) {
      if (!p.image.defined()) return;
      EXPECT_TRUE(same_bits(p.image, p.value.cast(DType::bf16))) << p.name;
    });
  }
}

TEST_F(TrainerTest, TheCutOfAStepChangesNothingButRounding) {
  Recipe recipe = tiny_recipe(dir_);
  // A large eps keeps the optimizer from turning the rounding of tiny gradients into whole steps.
  recipe.optim.eps = 1e-2;
  recipe.optim.warmup_steps = 0;
  recipe.train.micro_batch_sequences = 4;
  const Outcome whole = train(recipe, 3);
  for (const i64 lanes : {1, 2, 4}) {
    for (i64 micro = 1; micro * lanes <= 4; micro *= 2) {
      SCOPED_TRACE(std::to_string(lanes) + " lanes, micro-batches of " + std::to_string(micro));
      recipe.train.lanes = lanes;
      recipe.train.micro_batch_sequences = micro;
      expect_equal_to_rounding(whole, train(recipe, 3));
    }
  }
}

// The load of the whole step moves each bias, however the step is cut; a refused step moves none.
TEST_F(TrainerTest, RouterBiasesFollowTheWholeStep) {
  Recipe recipe = tiny_recipe(dir_);
  recipe.model.topk_method = "noaux_tc";
  recipe.model.scoring_func = "sigmoid";
  recipe.model.router_bias_update_rate = 0.5;
  recipe.optim.warmup_steps = 0;
  const auto biases = [](Trainer& trainer) {
    std::vector<float> all;
    trainer.model().visit_tensors([&](const std::string& name, const Tensor& value) {
      if (!name.ends_with("e_score_correction_bias")) return;
      all.insert(all.end(), value.span<float>().begin(), value.span<float>().end());
    });
    return all;
  };
  std::vector<std::vector<float>> by_cut;
  for (const i64 micro : {4, 1, 2}) {
    recipe.train.micro_batch_sequences = micro;
    recipe.train.recompute = micro == 2;  // what is computed again is not counted again
    Trainer trainer(recipe, make_sampler(recipe));
    const StepReport report = trainer.step(trainer.batch_of(0));
    by_cut.push_back(biases(trainer));
    const std::vector<i64>& load = report.expert_load.at(0);
    const double mean = std::accumulate(load.begin(), load.end(), 0.0) / double(load.size());
    ASSERT_EQ(by_cut.back().size(), load.size());
    for (size_t e = 0; e < load.size(); ++e) {
      const float expected = double(load[e]) < mean ? 0.5f : double(load[e]) > mean ? -0.5f : 0;
      EXPECT_EQ(by_cut.back()[e], expected) << e;
    }
    trainer.model().lm_head.value.data<float>()[7] = std::numeric_limits<float>::infinity();
    EXPECT_TRUE(trainer.step(trainer.batch_of(1)).bad);
    EXPECT_EQ(biases(trainer), by_cut.back());
  }
  EXPECT_EQ(by_cut[0], by_cut[1]);
  EXPECT_EQ(by_cut[0], by_cut[2]);
}

// Balance over the step so far: with one micro-batch that is the whole step, with several the
// later ones know of the earlier.
TEST_F(TrainerTest, BalanceOverTheStepSoFar) {
  Recipe recipe = tiny_recipe(dir_);
  recipe.model.seq_aux = false;
  const StepReport micro = train(recipe, 1).reports[0];
  recipe.model.balance_scope = "global_running";
  recipe.train.micro_batch_sequences = recipe.train.batch_sequences;
  recipe.train.lanes = 1;
  const StepReport whole = train(recipe, 1).reports[0];
  recipe.train.micro_batch_sequences = 1;
  recipe.train.recompute = true;  // counts once
  const StepReport cut = train(recipe, 1).reports[0];
  recipe.model.balance_scope = "";
  const StepReport alone = train(recipe, 1).reports[0];
  EXPECT_NE(micro.aux_loss, alone.aux_loss);
  EXPECT_LT(std::abs(cut.aux_loss - whole.aux_loss), std::abs(alone.aux_loss - whole.aux_loss));
  recipe.model.seq_aux = true;
  EXPECT_NEAR(train(recipe, 1).reports[0].aux_loss, alone.aux_loss, 1e-9);
}

// Balance over the whole step: what is learnt does not depend on the cut, lanes among it.
TEST_F(TrainerTest, BalanceOverTheWholeStep) {
  Recipe recipe = tiny_recipe(dir_);
  recipe.optim.eps = 1e-2;
  recipe.model.aux_loss_alpha = 0.5;
  recipe.model.balance_scope = "global_exact";
  validate(recipe);
  recipe.train.micro_batch_sequences = 4;
  const Outcome whole = train(recipe, 3);
  recipe.train.micro_batch_sequences = 1;
  expect_equal_to_rounding(whole, train(recipe, 3));
  recipe.train.lanes = 2;
  recipe.train.recompute = true;
  const Outcome cut = train(recipe, 3);
  expect_equal_to_rounding(whole, cut);
  recipe.model.balance_scope = "global_running";
  EXPECT_GT(std::abs(train(recipe, 1).reports[0].aux_loss - whole.reports[0].aux_loss), 1e-5);
}

TEST_F(TrainerTest, NoiseOfRoutersDoesNotDependOnTheCut) {
  Recipe recipe = tiny_recipe(dir_);
  const Outcome calm = train(recipe, 2);
  recipe.model.router_jitter_noise = 0.1;
  recipe.train.micro_batch_sequences = 4;
  const Outcome whole = train(recipe, 2);
  EXPECT_NE(whole.reports[0].aux_loss, calm.reports[0].aux_loss);
  recipe.train.micro_batch_sequences = 1;
  recipe.train.recompute = true;
  expect_equal_to_rounding(whole, train(recipe, 2));
}

// Routers that drop copies do so the same way when a layer is computed again.
TEST_F(TrainerTest, RecomputingDropsTheSame) {
  const auto variants = {
      +[](ModelConfig& c) { c.capacity_factor = 0.5; },
      +[](ModelConfig& c) { c.n_group = 2, c.device_capacity_factor = 0.5; },
      +[](ModelConfig& c) { c.topk_method = "expert_choice", c.aux_loss_alpha = 0; },
      +[](ModelConfig& c) {
        c.topk_method = "hash", c.num_experts_per_tok = 1, c.aux_loss_alpha = 0;
      }};
  for (const auto& change : variants) {
    Recipe recipe = tiny_recipe(dir_);
    change(recipe.model);
    validate(recipe);
    const Outcome plain = train(recipe, 4);
    recipe.train.recompute = true;
    const Outcome again = train(recipe, 4);
    for (size_t i = 0; i < plain.weights.size(); ++i) {
      EXPECT_TRUE(same_bits(plain.weights[i], again.weights[i]));
    }
    EXPECT_LT(plain.reports[3].loss, plain.reports[0].loss);
    const bool limited = recipe.model.capacity_factor + recipe.model.device_capacity_factor > 0;
    EXPECT_EQ(plain.reports[0].router[0].dropped > 0, limited);
  }
}

// Masking leaves micro-batches with different numbers of labels; each label still weighs the same.
TEST_F(TrainerTest, AccumulationWeighsLabelsNotMicroBatches) {
  Recipe recipe = tiny_recipe(dir_);
  recipe.optim.eps = 1e-2;
  recipe.data.mask_across_documents = true;
  recipe.data.sequence_length = 100;
  recipe.train.micro_batch_sequences = 4;
  const Outcome whole = train(recipe, 2);
  recipe.train.micro_batch_sequences = 1;
  expect_equal_to_rounding(whole, train(recipe, 2));
}

// The labels of modules that predict further are fewer, and each weighs as those of the model.
TEST_F(TrainerTest, TheCutOfAStepDoesNotChangeMultiTokenPrediction) {
  Recipe recipe = tiny_recipe(dir_);
  recipe.optim.eps = 1e-2;
  recipe.data.mask_across_documents = true;
  recipe.model.num_nextn_predict_layers = 2;
  validate(recipe);
  recipe.train.micro_batch_sequences = 4;
  const Outcome whole = train(recipe, 2);
  recipe.train.micro_batch_sequences = 1;
  recipe.train.lanes = 2;
  const Outcome cut = train(recipe, 2);
  expect_equal_to_rounding(whole, cut);
  EXPECT_NEAR(whole.reports[1].nextn_loss, cut.reports[1].nextn_loss, 2e-6);
  EXPECT_GT(whole.reports[1].nextn_loss, 1);
  EXPECT_EQ(whole.reports[0].router.size(), 3U);
}

TEST_F(TrainerTest, ModulesOfMultiTokenPredictionMayStayBehind) {
  Recipe recipe = tiny_recipe(dir_);
  recipe.model.num_nextn_predict_layers = 1;
  Trainer with(recipe, make_sampler(recipe));
  with.step(with.batch_of(0));
  const std::filesystem::path saved = save(with, "with");
  EXPECT_TRUE(read_checkpoint_info(saved).model == recipe.model);
  Model same(recipe.model);
  load_weights(saved, same);
  EXPECT_TRUE(
      same_bits(same.nextn[0].eh_proj.weight.value, with.model().nextn[0].eh_proj.weight.value));
  recipe.model.num_nextn_predict_layers = 0;
  Model without(recipe.model);
  load_weights(saved, without);
  EXPECT_TRUE(same_bits(without.norm.weight.value, with.model().norm.weight.value));
  recipe.model.num_hidden_layers = 1;
  recipe.model.first_k_dense_replace = 1;
  Model shorter(recipe.model);
  EXPECT_THROW(load_weights(saved, shorter), CheckpointError);
}

TEST_F(TrainerTest, RecomputingGivesTheSameBits) {
  Recipe recipe = tiny_recipe(dir_);
  const Outcome plain = train(recipe, 5);
  recipe.train.recompute = true;
  const Outcome again = train(recipe, 5);
  for (size_t i = 0; i < plain.weights.size(); ++i) {
    EXPECT_TRUE(same_bits(plain.weights[i], again.weights[i])) << "parameter " << i;
  }
  for (size_t s = 0; s < 5; ++s) {
    EXPECT_EQ(plain.reports[s].loss, again.reports[s].loss);
    EXPECT_EQ(plain.reports[s].expert_load, again.reports[s].expert_load);
  }
}

TEST_F(TrainerTest, LearnsAndCountsWhatItSaw) {
  Recipe recipe = tiny_recipe(dir_);
  recipe.train.batch_sequences_start = 2;
  recipe.train.batch_rampup_tokens = 500;
  Trainer trainer(recipe, make_sampler(recipe));
  const double first = trainer.step(trainer.batch_of(0)).loss;
  EXPECT_NEAR(first, std::log(300.0), 0.5);
  i64 tokens = 32;
  double last = 0;
  for (i64 s = 1; s < 100; ++s) {
    const StepReport report = trainer.step(trainer.batch_of(s));
    i64 sent = 0;
    for (const i64 n : report.expert_load.at(0)) sent += n;
    EXPECT_EQ(sent, 2 * report.tokens);
    tokens += report.tokens;
    last = report.loss;
  }
  EXPECT_LT(last, 0.8 * first);
  EXPECT_EQ(trainer.progress().step, 100);
  EXPECT_EQ(trainer.progress().tokens_seen, tokens);
  EXPECT_EQ(trainer.progress().next_sample, trainer.batch_schedule().first_sample(100));
  EXPECT_EQ(trainer.batch_of(99).tokens.dim(0), 4);
}

TEST_F(TrainerTest, WhatIsNotFiniteLeavesTheStateUntouched) {
  Recipe recipe = tiny_recipe(dir_);
  recipe.guard.on_bad_step = "halt";
  Trainer trainer(recipe, make_sampler(recipe));
  for (i64 s = 0; s < 3; ++s) trainer.step(trainer.batch_of(s));
  const float good = trainer.model().lm_head.value.data<float>()[7];
  trainer.model().lm_head.value.data<float>()[7] = std::numeric_limits<float>::infinity();
  const auto before = save(trainer, "before");
  const StepReport report = trainer.step(trainer.batch_of(3));
  ASSERT_TRUE(report.bad);
  EXPECT_EQ(report.bad->action, BadStepAction::halt);
  EXPECT_EQ(report.bad->step, 4);
  const auto after = save(trainer, "after");
  for (const char* file : {"model.h5", "optimizer.h5"}) {
    EXPECT_TRUE(bytes_of(before / file) == bytes_of(after / file)) << file;
  }
  // And the next step is the one that would have been.
  trainer.model().lm_head.value.data<float>()[7] = good;
  trainer.step(trainer.batch_of(3));
  EXPECT_TRUE(same_bits(weights_of(trainer.model()).back(), train(recipe, 4).weights.back()));
}

TEST_F(TrainerTest, StartsFromTheWeightsOfAnotherRun) {
  const Recipe recipe = tiny_recipe(dir_);
  Trainer first(recipe, make_sampler(recipe));
  for (i64 s = 0; s < 3; ++s) first.step(first.batch_of(s));
  const auto checkpoint = save(first, "first");

  prepare_corpus(dir_, "other", 100, dir_ / "corpus/tokenizer.json");
  const Recipe other = tiny_recipe(dir_, "other");
  for (const auto& from : {checkpoint, checkpoint / "model.h5", dir_ / "first"}) {
    Trainer second(other, make_sampler(other));
    second.start_from(find_model_file(from));
    const auto expected = weights_of(first.model()), actual = weights_of(second.model());
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_TRUE(same_bits(expected[i], actual[i])) << "parameter " << i << " from " << from;
    }
    EXPECT_EQ(second.progress().step, 0);
    EXPECT_EQ(second.optimizer().steps(), 0);
    EXPECT_TRUE(std::isfinite(second.step(second.batch_of(0)).loss));
  }
}

TEST_F(TrainerTest, RefusesWeightsThatDoNotFit) {
  const Recipe recipe = tiny_recipe(dir_);
  Trainer first(recipe, make_sampler(recipe));
  const auto checkpoint = save(first, "first");
  Recipe wider = recipe;
  wider.model.v_head_dim = 6;
  Trainer second(wider, make_sampler(wider));
  try {
    second.start_from(find_model_file(checkpoint));
    FAIL() << "not thrown";
  } catch (const ConfigError& error) {
    EXPECT_EQ(error.facts().key, "model.layers.0.self_attn.kv_b_proj.weight");
    EXPECT_NE(error.facts().expected, error.facts().actual);
  }
  const auto file = checkpoint / "model.h5";
  const auto whole = save(first, "whole");
  std::filesystem::resize_file(file, std::filesystem::file_size(file) - 1);
  EXPECT_THROW(Trainer(recipe, make_sampler(recipe)).start_from(find_model_file(checkpoint)),
               CheckpointError);
  prepare_corpus(dir_, "foreign", 500);  // with a tokenizer of its own
  const Recipe foreign = tiny_recipe(dir_, "foreign");
  Trainer third(foreign, make_sampler(foreign));
  EXPECT_THROW(third.start_from(find_model_file(whole)), ConfigError);
  EXPECT_THROW(third.start_from(find_model_file(dir_ / "nowhere")), ConfigError);
}

TEST_F(TrainerTest, MixesTokenFilesByWeight) {
  prepare_corpus(dir_, "other", 100, dir_ / "corpus/tokenizer.json");
  Recipe recipe = tiny_recipe(dir_);
  recipe.data.train[0].weight = 3;
  recipe.data.train.push_back({.path = dir_ / "other/train.h5", .weight = 1});
  const auto sampler = make_sampler(recipe);
  int of_second = 0;
  for (i64 i = 0; i < 400; ++i) of_second += sampler->place(i).source == 1;
  EXPECT_NEAR(of_second, 100, 2);
  Trainer trainer(recipe, sampler);
  for (i64 s = 0; s < 5; ++s) EXPECT_TRUE(std::isfinite(trainer.step(trainer.batch_of(s)).loss));
}

TEST_F(TrainerTest, RefusesTokensBeyondTheVocabulary) {
  Recipe recipe = tiny_recipe(dir_);
  recipe.model.vocab_size = 299;
  try {
    make_sampler(recipe);
    FAIL() << "not thrown";
  } catch (const DataError& error) {
    EXPECT_EQ(error.facts().expected, "at most 299");
    EXPECT_EQ(error.facts().actual, "300");
    EXPECT_EQ(error.facts().hint, "set model.vocab_size=300");
  }
}

}  // namespace
}  // namespace quern
