// SPDX-License-Identifier: MIT
// Bad numbers put in on purpose: the weights are those of a run that never saw the batch.
#include "quern/recipes/guard.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <tuple>
#include <utility>

#include "quern/recipes/trainer.h"
#include "tests/recipes/run_fixture.h"
#include "tests/recipes/step_faults.h"
#include "tests/support/toy_model.h"

namespace quern {
namespace {

using testing::fault_at;
using testing::FaultPlace;
using testing::parameters_of;
using testing::prepare_corpus;
using testing::same_bits;
using testing::tiny_recipe;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

void expect_same_state(Trainer& a, Trainer& b) {
  const auto p = parameters_of(a.model()), q = parameters_of(b.model());
  ASSERT_EQ(p.size(), q.size());
  for (size_t i = 0; i < p.size(); ++i) {
    EXPECT_TRUE(same_bits(p[i]->value, q[i]->value)) << p[i]->name;
  }
  std::vector<Tensor> moments;
  a.optimizer().visit([&](const Parameter&, const Tensor& m, const Tensor& v) {
    moments.push_back(m);
    moments.push_back(v);
  });
  size_t next = 0;
  b.optimizer().visit([&](const Parameter& of, const Tensor& m, const Tensor& v) {
    EXPECT_TRUE(same_bits(moments.at(next++), m)) << "m of " << of.name;
    EXPECT_TRUE(same_bits(moments.at(next++), v)) << "v of " << of.name;
  });
  EXPECT_EQ(a.optimizer().steps(), b.optimizer().steps());
  EXPECT_EQ(a.progress().step, b.progress().step);
  EXPECT_EQ(a.progress().tokens_seen, b.progress().tokens_seen);
}

class GuardTest : public ::testing::Test {
 protected:
  void SetUp() override {
    prepare_corpus(dir_, "corpus");
    recipe_ = tiny_recipe(dir_);
    recipe_.train.lanes = 2;
    recipe_.train.micro_batch_sequences = 1;
    sampler_ = make_sampler(recipe_);
  }

  Trainer faulty(StepHooks hooks) { return Trainer(recipe_, sampler_, std::move(hooks)); }
  // Good steps until `step`, over data from which samples [from, from + left_out) are missing.
  void train_without(Trainer& twin, i64 step, i64 from = 0, i64 left_out = 0) {
    while (twin.progress().step < step) {
      const i64 next = twin.progress().step;
      const bool after = twin.batch_schedule().first_sample(next) >= from;
      ASSERT_FALSE(twin.step(twin.batch_of(next, after ? left_out : 0)).bad);
    }
  }
  // As a run does it: until `step`, or until something else than a skip is asked for.
  std::optional<BadStep> train_until(Trainer& trainer, i64 step) {
    while (trainer.progress().step < step) {
      const Batch batch = trainer.batch_of(trainer.progress().step, trainer.passed_over());
      const StepReport report = trainer.step(batch);
      if (!report.bad) continue;
      last_ = *report.bad;
      if (report.bad->action != BadStepAction::skip) return report.bad;
    }
    return std::nullopt;
  }
  std::filesystem::path save(Trainer& trainer) {
    save_checkpoint(dir_ / "run", trainer.model(), trainer.optimizer(), trainer.progress(),
                    {to_text(recipe_), sampler_->sources()[0].file->tokenizer_sha256()});
    return checkpoint_path(dir_ / "run", trainer.progress().step);
  }

  TempDir dir_;
  Recipe recipe_;
  std::shared_ptr<const Sampler> sampler_;
  BadStep last_;
};

// ---- every kind in every place under every policy: 36 cases

class GuardMatrix
    : public GuardTest,
      public ::testing::WithParamInterface<std::tuple<double, FaultPlace, const char*>> {};

constexpr const char* kFirstBad[] = {
    "lm_head: output of op \"linear_cross_entropy\" is not finite: ",
    "gradient of model.layers.0.self_attn.o_proj.weight is not finite: ",
    "model.layers.1.mlp.experts.down: output of op \"expert_ffn\" is not finite: ",
    "model.layers.1.mlp: output of op \"softmax\" is not finite: "};

// Step 5 tries samples 16 to 19; its second lane goes wrong.
TEST_P(GuardMatrix, TheStateIsThatOfARunThatNeverSawTheBatch) {
  const auto [value, place, policy] = GetParam();
  recipe_.guard.on_bad_step = policy;
  Trainer trainer = faulty(fault_at(16, 1, place, value));
  Trainer twin(recipe_, sampler_);
  if (policy == std::string("skip")) {
    EXPECT_FALSE(train_until(trainer, 8));
    train_without(twin, 8, 16, 4);
  } else if (policy == std::string("halt")) {
    ASSERT_TRUE(train_until(trainer, 8));
    EXPECT_EQ(last_.action, BadStepAction::halt);
    train_without(twin, 4);
  } else {
    ASSERT_FALSE(train_until(trainer, 2));
    const auto checkpoint = save(trainer);
    const auto bad = train_until(trainer, 8);
    ASSERT_TRUE(bad);
    EXPECT_EQ(bad->action, BadStepAction::rollback);
    trainer.roll_back(checkpoint, *bad);
    EXPECT_EQ(trainer.progress().step, 2);
    EXPECT_EQ(trainer.passed_over(), 12);  // samples 8 to 19
    EXPECT_FALSE(train_until(trainer, 8));
    train_without(twin, 8, 8, 12);
  }
  expect_same_state(trainer, twin);
  EXPECT_EQ(last_.step, 5);
  EXPECT_EQ(last_.first_sample, 16);
  EXPECT_EQ(last_.sequences, 4);
  EXPECT_EQ(last_.place.rfind(kFirstBad[int(place)], 0), 0u) << last_.place;
  const char* shown = std::isnan(value) ? "NaN" : value > 0 ? "+Inf" : "-Inf";
  EXPECT_NE(last_.place.find(std::string("is not finite: ") + shown), std::string::npos)
      << last_.place;
}

std::string case_name(const ::testing::TestParamInfo<GuardMatrix::ParamType>& info) {
  const auto [value, place, policy] = info.param;
  const char* const places[] = {"Loss", "Gradient", "Activation", "Router"};
  return std::string(std::isnan(value) ? "NaN"
                     : value > 0       ? "PlusInf"
                                       : "MinusInf") +
         "_" + places[int(place)] + "_" + policy;
}

INSTANTIATE_TEST_SUITE_P(
    All, GuardMatrix,
    ::testing::Combine(::testing::Values(kNaN, kInf, -kInf),
                       ::testing::Values(FaultPlace::loss, FaultPlace::gradient,
                                         FaultPlace::activation, FaultPlace::router),
                       ::testing::Values("skip", "rollback", "halt")),
    case_name);

// ---- the whole of it once more where activations are computed twice

TEST_F(GuardTest, FindsTheSamePlaceWhenActivationsAreRecomputed) {
  recipe_.train.recompute = true;
  for (const FaultPlace place : {FaultPlace::gradient, FaultPlace::activation}) {
    Trainer trainer = faulty(fault_at(4, 0, place, kNaN)), twin(recipe_, sampler_);
    EXPECT_FALSE(train_until(trainer, 4));
    EXPECT_EQ(last_.place.rfind(kFirstBad[int(place)], 0), 0u) << last_.place;
    train_without(twin, 4, 4, 4);
    expect_same_state(trainer, twin);
  }
}

TEST_F(GuardTest, NamesTheExpertOfAGradientInAStack) {
  StepHooks hooks;
  hooks.watch = [](i64 sample, i64) {
    TapeWatch watch;
    if (sample != 0) return watch;
    watch.gradient = [](const char*, const std::string&, const Parameter* p, const Tensor& grad) {
      // [experts, 2 * width, hidden]: expert 3, the second row of up_proj
      if (p != nullptr && p->name == "model.layers.1.mlp.experts.gate_up") {
        grad.data<float>()[(3 * 16 + 8 + 1) * 16 + 2] = float(kNaN);
      }
    };
    return watch;
  };
  Trainer trainer = faulty(hooks);
  EXPECT_FALSE(train_until(trainer, 1));
  EXPECT_EQ(last_.place,
            "gradient of model.layers.1.mlp.experts.3.up_proj.weight is not finite: NaN at [1, 2] "
            "of f32 [8, 16]");
}

TEST_F(GuardTest, NamesABadWeightBeforeAnythingElse) {
  recipe_.guard.on_bad_step = "halt";
  Trainer trainer(recipe_, sampler_);
  trainer.model().lm_head.value.data<float>()[16 * 3 + 7] = -float(kInf);
  ASSERT_TRUE(train_until(trainer, 1));
  EXPECT_EQ(last_.place, "weight lm_head.weight is not finite: -Inf at [3, 7] of f32 [300, 16]");
}

TEST_F(GuardTest, SaysWhenTheFaultDoesNotComeAgain) {
  StepHooks hooks;
  auto once = std::make_shared<bool>(true);
  hooks.watch = [once](i64 sample, i64 lane) {
    const bool now = std::exchange(*once, *once && !(sample == 0 && lane == 0)) != *once;
    return now ? fault_at(0, 0, FaultPlace::activation, kNaN).watch(sample, lane) : TapeWatch();
  };
  Trainer trainer = faulty(hooks);
  EXPECT_FALSE(train_until(trainer, 1));
  EXPECT_NE(last_.place.find("fault of memory or processor"), std::string::npos) << last_.place;
}

TEST_F(GuardTest, HaltsAfterSoManySkipsInARow) {
  recipe_.guard.max_consecutive_skips = 3;
  StepHooks hooks;
  hooks.watch = [](i64 sample, i64 lane) {  // 2 bad batches, a good one, then bad ones only
    const bool bad = sample == 8 || sample == 12 || sample >= 20;
    return bad ? fault_at(sample, 0, FaultPlace::loss, kNaN).watch(sample, lane) : TapeWatch();
  };
  Trainer trainer = faulty(hooks), twin(recipe_, sampler_);
  ASSERT_TRUE(train_until(trainer, 9));
  EXPECT_EQ(last_.action, BadStepAction::halt);
  EXPECT_EQ(last_.in_a_row, 4);
  EXPECT_EQ(last_.first_sample, 32);  // 20, 24 and 28 were skipped
  train_without(twin, 3, 8, 8);
  expect_same_state(trainer, twin);
}

TEST_F(GuardTest, HaltsAfterSoManyRollbacksWithoutGettingFurther) {
  recipe_.guard.on_bad_step = "rollback";
  recipe_.guard.max_consecutive_skips = 2;
  StepHooks hooks;
  hooks.watch = [](i64 sample, i64 lane) {  // whatever the data, there is no third step
    const bool bad = sample % 12 == 8;
    return bad ? fault_at(sample, 0, FaultPlace::gradient, kInf).watch(sample, lane) : TapeWatch();
  };
  Trainer trainer = faulty(hooks);
  const auto start = save(trainer);
  for (int i = 0; i < 2; ++i) {
    const auto bad = train_until(trainer, 9);
    ASSERT_TRUE(bad);
    EXPECT_EQ(bad->action, BadStepAction::rollback);
    EXPECT_EQ(bad->in_a_row, i + 1);
    trainer.roll_back(start, *bad);
  }
  ASSERT_TRUE(train_until(trainer, 9));
  EXPECT_EQ(last_.action, BadStepAction::halt);
  EXPECT_EQ(last_.first_sample, 32);
}

// ---- the guard alone

NumericalGuard with_window(const std::vector<double>& losses) {
  GuardRecipe recipe;
  recipe.on_spike = "skip";
  recipe.spike_window = 8;
  NumericalGuard guard(recipe);
  i64 step = 0;
  for (const double loss : losses) guard.accept(++step, loss, 0.5);
  return guard;
}

TEST(NumericalGuard, SeesSpikesOnceTheWindowIsFull) {
  // median 4.0, median distance 0.1: the limit is 4 + 10 * 0.14826
  const std::vector<double> losses = {3.9, 4.1, 4.0, 4.0, 4.1, 3.8, 3.9, 4.2};
  const NumericalGuard full = with_window(losses);
  EXPECT_FALSE(full.examine(5.48, 0, 0.5));
  ASSERT_TRUE(full.examine(5.49, 0, 0.5));
  EXPECT_TRUE(full.examine(5.49, 0, 0.5)->spike);
  EXPECT_FALSE(full.examine(0.1, 0, 0.5)) << "what falls is no spike";
  // Norms: the floor of 10 %, ten times, is a factor of e.
  EXPECT_FALSE(full.examine(4.0, 0, 0.5 * std::exp(0.99)));
  EXPECT_TRUE(full.examine(4.0, 0, 0.5 * std::exp(1.01)));
  EXPECT_FALSE(full.examine(4.0, 0, 0));
  EXPECT_FALSE(with_window({losses.begin() + 1, losses.end()}).examine(1e9, 0, 1e9));
  EXPECT_FALSE(full.examine(kNaN, 0, 1)->spike);
  EXPECT_FALSE(full.examine(1, -kInf, 1)->spike);
}

// Half of the window may be spikes and the median still knows better; refused steps never enter.
TEST(NumericalGuard, SpikesDoNotMoveTheWindow) {
  NumericalGuard guard = with_window({4, 4, 4, 9, 4, 9, 9, 4});
  const std::string before = guard.state();
  EXPECT_TRUE(guard.examine(500, 0, 0.5));
  guard.refuse({true, "spike"}, 9);
  EXPECT_EQ(guard.state(), before);
}

TEST(NumericalGuard, OffMeansOff) {
  NumericalGuard guard{GuardRecipe()};
  for (i64 step = 1; step <= 500; ++step) guard.accept(step, 4, 0.5);
  EXPECT_FALSE(guard.examine(1e30, 0, 1e30));
  EXPECT_EQ(guard.state(), "");
}

TEST(NumericalGuard, StateComesBackWithEveryBit) {
  NumericalGuard guard = with_window({1.0 / 3, 4.1, 3.7, 3.9, 4.1, 3.8, 3.9, 4.2, 1e-300, 7});
  NumericalGuard other = with_window({});
  other.set_state(guard.state());
  EXPECT_EQ(other.state(), guard.state());
  guard.accept(11, 5, 2);
  other.accept(11, 5, 2);
  EXPECT_EQ(other.state(), guard.state());
  other.set_state("");
  EXPECT_EQ(other.state(), "");
  for (const char* bad :
       {"x", "2 0 0", "1 0", "1 -1 0", "1 0 0 0x1p+1", "1 0 0 nan nan", "1 0 0 0x1p+1 0x1p+1z"}) {
    EXPECT_THROW(other.set_state(bad), CheckpointError) << bad;
  }
}

}  // namespace
}  // namespace quern
