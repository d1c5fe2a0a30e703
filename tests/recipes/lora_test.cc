// SPDX-License-Identifier: MIT
// Updates of low rank: what they compute, how they are trained, saved and merged.
#include <gtest/gtest.h>

#include <cmath>

#include "quern/recipes/checkpoint.h"
#include "quern/recipes/checkpoint_folder.h"
#include "quern/recipes/finetune.h"
#include "quern/recipes/run.h"
#include "tests/recipes/run_fixture.h"
#include "tests/support/toy_model.h"

namespace quern {
namespace {

using testing::largest_difference;
using testing::logits_of;
using testing::parameters_of;
using testing::prepare_corpus;
using testing::random_ids;
using testing::same_bits;
using testing::tiny_recipe;
using testing::toy_config;

bool is_matrix(const Parameter& p) {
  return p.value.shape().rank() == 2 && p.kind != ParamKind::embedding &&
         p.kind != ParamKind::head && p.kind != ParamKind::router;
}

// Every matrix has an update, none of which is zero.
Model updated_model(const ModelConfig& config, i64 rank) {
  Model model(config, DType::f64);
  model.add_low_rank_updates(rank, 0.7, is_matrix);
  testing::randomise(model);
  return model;
}

TEST(LowRank, TheModelIsTheOneWithMergedMatrices) {
  for (const ModelConfig& config : {toy_config(), testing::with_q_lora(toy_config())}) {
    Model model = updated_model(config, 3), plain(config, DType::f64), base(config, DType::f64);
    testing::randomise(base);
    std::vector<Tensor> values;
    model.visit([&](Parameter& p) {
      if (!is_low_rank(p)) values.push_back(merged(p));
    });
    size_t i = 0;
    plain.visit([&](Parameter& p) { p.value.copy_from(values.at(i++)); });
    const Tensor ids = random_ids({2, 7}, 53);
    const Tensor updated = logits_of(model, ids);
    EXPECT_LT(largest_difference(updated, logits_of(plain, ids)), 1e-11);
    EXPECT_GT(largest_difference(updated, logits_of(base, ids)), 1e-2);

    KvCache cache(config, 7, DType::f64);
    model.decode(ids.view(0, {5}), cache);
    const Tensor once = cache.layers[0].kv_b;
    const Tensor decoded = model.decode(ids.view(5, {2}), cache);
    EXPECT_LT(largest_difference(decoded, updated.rows(6, 7)), 1e-11);
    EXPECT_EQ(once.bytes().data(), cache.layers[0].kv_b.bytes().data());  // merged once
  }
}

// Generation begins with the rounded matrix that training reads.
TEST(LowRank, MergesIntoWhatProductsRead) {
  Model model(toy_config(), DType::bf16);
  model.add_low_rank_updates(2, 1, is_matrix);
  model.initialise(1);  // B is zero
  const Parameter& w = std::get<Mla>(model.layers[1].self_attn).kv_b_proj.weight;
  EXPECT_TRUE(same_bits(merged(w), w.image.cast(DType::f32)));
  EXPECT_FALSE(same_bits(merged(w), w.value));
}

// Losses of a few steps of AdamW, without decay, on the parameters given.
std::vector<double> losses_of(Model& model, std::vector<Parameter*> trained) {
  AdamW optimizer({.weight_decay = 0}, std::move(trained), [](const Parameter&) { return false; });
  const Tensor ids = random_ids({2, 9}, 53), labels = random_ids({18}, 53, 2);
  std::vector<double> losses;
  for (int step = 0; step < 6; ++step) {
    model.visit([](Parameter& p) { p.clear_grad(); });
    Tape tape;
    const ModelOutput out = model.forward(tape, ids);
    const Var loss =
        ops::linear_cross_entropy(tape, out.hidden, tape.parameter(model.head()), labels, 1.0 / 18)
            .loss;
    tape.backward(loss);
    losses.push_back(loss.item());
    optimizer.step(3e-3);
  }
  return losses;
}

// With A the identity, which stays, W + B moves as W does.
TEST(LowRank, OfFullRankFollowsFullTraining) {
  const ModelConfig config = toy_config();
  for (const char* pattern : {"q_proj", "up_proj", "down_proj", "kv_b_proj"}) {
    const auto target = [&](const Parameter& p) {
      return is_matrix(p) && p.name.find(pattern) != std::string::npos;
    };
    // One update has one rank; matrices with so many columns are chosen.
    i64 rank = 0;
    Model full(config, DType::f64);
    full.visit([&](Parameter& p) {
      if (rank == 0 && target(p)) rank = p.value.dim(1);
    });
    const auto chosen = [&](const Parameter& p) { return target(p) && p.value.dim(1) == rank; };
    testing::randomise(full);
    Model low(config, DType::f64);
    low.add_low_rank_updates(rank, 1, chosen);
    testing::randomise(low);
    std::vector<Parameter*> whole, updates;
    full.visit([&](Parameter& p) {
      if (chosen(p)) whole.push_back(&p);
    });
    low.visit([&](Parameter& p) {
      if (p.kind == ParamKind::low_rank_b) {
        p.value.fill(0);
        updates.push_back(&p);
      }
      if (p.kind != ParamKind::low_rank_a) return;
      p.value.fill(0);
      for (i64 i = 0; i < rank; ++i) p.value.data<double>()[i * rank + i] = 1;
    });
    ASSERT_EQ(whole.size(), updates.size()) << pattern;
    const auto a = losses_of(full, whole), b = losses_of(low, updates);
    EXPECT_LT(a.back(), a.front() - 1e-3) << pattern;
    for (size_t s = 0; s < a.size(); ++s) EXPECT_NEAR(a[s], b[s], 1e-9) << pattern << " " << s;
  }
}

TEST(LowRank, SomeExpertsOfAMatrixAreRefused) {
  Model model(toy_config(), DType::f64);
  EXPECT_THROW(
      model.add_low_rank_updates(
          2, 1, [](const Parameter& p) { return p.name.find("experts.3.") != p.name.npos; }),
      ConfigError);
}

class LoraTest : public ::testing::Test {
 protected:
  void SetUp() override {
    prepare_corpus(dir_, "corpus");
    recipe_ = tiny_recipe(dir_);
    recipe_.train.steps = 20;
    recipe_.train.eval_every = 0;
  }
  void TearDown() override { set_num_threads(1); }

  Recipe lora() const {
    Recipe r = recipe_;
    r.train.init_from = dir_ / "base";
    r.train.checkpoint_every = 10;
    r.train.keep_checkpoints = 10;
    r.finetune.method = "lora";
    r.finetune.lora_rank = 2;
    return r;
  }

  TempDir dir_;
  Recipe recipe_;
};

std::vector<std::string> trained_by(const Recipe& recipe) {
  Trainer trainer(recipe, make_sampler(recipe));
  std::vector<std::string> names;
  for (const Parameter* p : trainer.trained()) names.push_back(p->name);
  return names;
}

TEST_F(LoraTest, Targets) {
  Recipe r = lora();
  // q_proj, kv_a, kv_b, o in two layers; three of a dense and three of a shared network; 4 experts.
  EXPECT_EQ(trained_by(r).size(), 2u * (2 * 4 + 3 + 3 + 4 * 3));
  r.finetune.lora_targets = {"q_proj"};
  EXPECT_EQ(trained_by(r),
            (std::vector<std::string>{"model.layers.0.self_attn.q_proj.lora_A.weight",
                                      "model.layers.0.self_attn.q_proj.lora_B.weight",
                                      "model.layers.1.self_attn.q_proj.lora_A.weight",
                                      "model.layers.1.self_attn.q_proj.lora_B.weight"}));
  r.finetune.lora_targets = {"*.experts.*"};
  EXPECT_EQ(trained_by(r).size(), 2u * 12);
  r.finetune.lora_targets = {"gate_proj"};  // of every kind of network
  EXPECT_EQ(trained_by(r).size(), 2u * (1 + 1 + 4));
  for (const char* idle : {"gate", "q_a_proj", "*.embed_tokens.weight", "model.layers.7.*"}) {
    r.finetune.lora_targets = {"q_proj", idle};
    EXPECT_THROW(trained_by(r), ConfigError) << idle;
  }
}

TEST_F(LoraTest, StartsAsTheBaseAndLeavesItAsItIs) {
  Recipe base = recipe_;
  Trainer plain(base, make_sampler(base)), tuned(lora(), make_sampler(base));
  const double first = plain.step(plain.batch_of(0)).loss;
  std::vector<Tensor> before;
  tuned.model().visit([&](Parameter& p) { before.push_back(p.value.clone()); });
  const double same = tuned.step(tuned.batch_of(0)).loss;
  EXPECT_EQ(first, same);  // B is zero
  tuned.step(tuned.batch_of(1));
  size_t i = 0;
  tuned.model().visit(
      [&](Parameter& p) { EXPECT_EQ(same_bits(before[i++], p.value), !is_low_rank(p)) << p.name; });
}

TEST_F(LoraTest, ARunResumesBitForBitAndLoadsMerged) {
  ASSERT_EQ(train_run(recipe_, dir_ / "base"), ExitCode::kDone);
  ASSERT_EQ(train_run(lora(), dir_ / "tuned"), ExitCode::kDone);
  const auto copy = testing::cut_back(dir_ / "tuned", 10, dir_ / "moved");
  ASSERT_EQ(resume_run(copy), ExitCode::kDone);
  testing::expect_same_checkpoint(copy / "checkpoints/step-000020",
                                  dir_ / "tuned/checkpoints/step-000020");

  const Recipe resolved = load_recipe((dir_ / "tuned/recipe.textproto").string());
  Trainer trainer(resolved, make_sampler(resolved));
  trainer.restore(dir_ / "tuned/checkpoints/step-000020");
  std::vector<Tensor> values;
  trainer.model().visit([&](Parameter& p) {
    if (!is_low_rank(p)) values.push_back(merged(p));
  });
  Model plain(resolved.model);
  load_weights(dir_ / "tuned", plain);
  size_t i = 0, moved = 0;
  Model base(resolved.model);
  load_weights(dir_ / "base", base);
  const auto before = parameters_of(base);
  plain.visit([&](Parameter& p) {
    EXPECT_TRUE(same_bits(p.value, values.at(i))) << p.name;
    moved += !same_bits(p.value, before[i]->value);
    ++i;
  });
  EXPECT_EQ(moved, 2 * 4 + 3 + 3 + 4 * 3u);

  // From there another run goes on, with updates of its own.
  Recipe again = lora();
  again.train.init_from = dir_ / "tuned";
  again.finetune.lora_rank = 3;
  Trainer next(again, make_sampler(again));
  next.start_from(find_model_file(dir_ / "tuned"));
  i = 0;
  next.model().visit([&](Parameter& p) {
    if (is_low_rank(p)) return;
    EXPECT_TRUE(same_bits(p.value, values.at(i++))) << p.name;
  });
}

TEST_F(LoraTest, LanesAndRecomputingGiveTheSameBits) {
  Recipe r = lora();
  r.train.lanes = 2;
  const auto weights = [&] {
    Trainer trainer(r, make_sampler(r));
    for (i64 s = 0; s < 4; ++s) trainer.step(trainer.batch_of(s));
    std::vector<Tensor> all;
    for (const Parameter* p : trainer.trained()) all.push_back(p->value.clone());
    return all;
  };
  const auto once = weights();
  r.train.recompute = true;
  set_num_threads(2);
  const auto again = weights();
  for (size_t i = 0; i < once.size(); ++i) EXPECT_TRUE(same_bits(once[i], again[i])) << i;
}

}  // namespace
}  // namespace quern
