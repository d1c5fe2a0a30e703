// SPDX-License-Identifier: MIT
// The numerical guard in whole runs: what the folder shows, and that an interruption before,
// between or after refused steps changes nothing.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "quern/autograd/kernels/parallel.h"
#include "quern/data/tokenizer.h"
#include "quern/recipes/checkpoint.h"
#include "quern/recipes/metrics.h"
#include "quern/recipes/run.h"
#include "tests/recipes/run_fixture.h"
#include "tests/recipes/step_faults.h"

namespace quern {
namespace {

namespace fs = std::filesystem;
using testing::bytes_of;
using testing::expect_same_checkpoint;
using testing::expect_steps_once;
using testing::fault_at;
using testing::FaultPlace;
using testing::prepare_corpus;
using testing::tiny_recipe;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

std::vector<EventMetrics> events(const fs::path& run, const std::string& name) {
  std::vector<EventMetrics> found;
  for (const EventMetrics& e : read_metrics(run / "metrics.jsonl").events) {
    if (e.name == name) found.push_back(e);
  }
  return found;
}

// NaN in an activation of these batches; a "spike" is a finite loss of 1000.
StepHooks bad_batches(std::vector<i64> samples, double value = kNaN,
                      FaultPlace place = FaultPlace::activation) {
  StepHooks hooks;
  hooks.watch = [=](i64 sample, i64 lane) {
    const bool bad = std::find(samples.begin(), samples.end(), sample) != samples.end();
    return bad ? fault_at(sample, 0, place, value).watch(sample, lane) : TapeWatch();
  };
  return hooks;
}

class GuardRunTest : public ::testing::Test {
 protected:
  void SetUp() override {
    prepare_corpus(dir_, "corpus");
    recipe_ = tiny_recipe(dir_);
    recipe_.train.steps = 20;
    recipe_.train.checkpoint_every = 5;
    recipe_.train.keep_checkpoints = 10;
    recipe_.train.eval_every = 0;
  }
  void TearDown() override { set_num_threads(1); }

  // Resumed after any checkpoint, the run ends as it did without a stop.
  void expect_no_trace_of_stops(const fs::path& whole, const StepHooks& hooks) {
    for (const i64 step : {5, 10, 15}) {
      SCOPED_TRACE("resumed after step " + std::to_string(step));
      const fs::path copy =
          testing::cut_back(whole, step, dir_ / ("resumed" + std::to_string(step)));
      ASSERT_EQ(resume_run(copy, hooks), ExitCode::kDone);
      expect_same_checkpoint(checkpoint_path(whole, 20), checkpoint_path(copy, 20));
      expect_steps_once(copy, 20);
      for (const char* name : {"skipped", "rolled_back"}) {
        const auto a = events(whole, name), b = events(copy, name);
        ASSERT_EQ(a.size(), b.size()) << name;
        for (size_t i = 0; i < a.size(); ++i) {
          EXPECT_EQ(a[i].step, b[i].step);
          EXPECT_EQ(a[i].detail, b[i].detail);
        }
      }
    }
  }

  TempDir dir_;
  Recipe recipe_;
};

TEST_F(GuardRunTest, SkipsKeepsTheBatchAndGoesOn) {
  const StepHooks hooks = bad_batches({44, 48});  // step 12, twice
  ASSERT_EQ(train_run(recipe_, dir_ / "run", hooks), ExitCode::kDone);
  expect_steps_once(dir_ / "run", 20);
  const CheckpointInfo info = read_checkpoint_info(dir_ / "run");
  EXPECT_EQ(info.progress.step, 20);
  EXPECT_EQ(info.progress.next_sample, 4 * 22);
  EXPECT_EQ(info.progress.tokens_seen, 20 * 4 * 16);
  const auto skipped = events(dir_ / "run", "skipped");
  ASSERT_EQ(skipped.size(), 2u);
  EXPECT_EQ(skipped[1].step, 12);
  EXPECT_EQ(skipped[1].detail,
            "samples 48 to 51: loss is not finite, model.layers.1.mlp.experts.down: output of op "
            "\"expert_ffn\" is not finite: NaN at [16, 0] of f32 [32, 16]");

  const fs::path kept = dir_ / "run/bad_steps/step-000012-sample-000000000048.json";
  const auto json = nlohmann::json::parse(bytes_of(kept));
  EXPECT_EQ(json["action"], "skip");
  EXPECT_TRUE(json["loss"].is_null());
  ASSERT_EQ(json["samples"].size(), 4u);
  const Batch batch = make_sampler(recipe_)->batch(48, 4);
  const auto row = batch.tokens.span<i32>().subspan(2 * 16, 16);
  EXPECT_EQ(json["samples"][2]["sample"], 50);
  EXPECT_EQ(json["samples"][2]["tokens"].get<std::vector<i32>>(),
            std::vector<i32>(row.begin(), row.end()));
  EXPECT_EQ(json["samples"][2]["text"], Tokenizer::load(recipe_.data.tokenizer).decode(row));
  expect_no_trace_of_stops(dir_ / "run", hooks);
}

TEST_F(GuardRunTest, RollsBackAndJumpsOverTheData) {
  recipe_.guard.on_bad_step = "rollback";
  const StepHooks hooks = bad_batches({28});  // step 8: back to step 5, over samples 20 to 31
  ASSERT_EQ(train_run(recipe_, dir_ / "run", hooks), ExitCode::kDone);
  expect_steps_once(dir_ / "run", 20);
  EXPECT_EQ(read_checkpoint_info(dir_ / "run").progress.next_sample, 4 * (20 + 3));
  const auto back = events(dir_ / "run", "rolled_back");
  ASSERT_EQ(back.size(), 1u);
  EXPECT_EQ(back[0].step, 6);
  EXPECT_EQ(back[0].detail.rfind("from step 8 to step 5, over samples 20 to 31: loss", 0), 0u)
      << back[0].detail;
  expect_no_trace_of_stops(dir_ / "run", hooks);
}

TEST_F(GuardRunTest, RollsBackToTheStartBeforeTheFirstCheckpoint) {
  recipe_.guard.on_bad_step = "rollback";
  const StepHooks hooks = bad_batches({4, 16});
  ASSERT_EQ(train_run(recipe_, dir_ / "run", hooks), ExitCode::kDone);
  // From step 2, then from step 3: never further than before, so both count.
  EXPECT_EQ(events(dir_ / "run", "rolled_back").size(), 2u);
  EXPECT_EQ(read_checkpoint_info(dir_ / "run").progress.next_sample, 20 + 4 * 20);
  expect_no_trace_of_stops(dir_ / "run", hooks);
}

TEST_F(GuardRunTest, ASpikeIsSeenAlikeByAResumedRun) {
  recipe_.guard.on_spike = "skip";
  recipe_.guard.spike_window = 8;
  recipe_.guard.spike_zscore = 50;
  const StepHooks hooks = bad_batches({44}, 1000, FaultPlace::loss);  // soon after step 10
  ASSERT_EQ(train_run(recipe_, dir_ / "run", hooks), ExitCode::kDone);
  const auto skipped = events(dir_ / "run", "skipped");
  ASSERT_EQ(skipped.size(), 1u);
  EXPECT_NE(skipped[0].detail.find("is a spike: the last 8 good steps have a median of"),
            std::string::npos)
      << skipped[0].detail;
  expect_no_trace_of_stops(dir_ / "run", hooks);
}

TEST_F(GuardRunTest, HaltsWithTheLastGoodStepSavedAndSaysHowToGoOn) {
  recipe_.guard.on_bad_step = "halt";
  const fs::path run = dir_ / "run";
  try {
    train_run(recipe_, run, bad_batches({48}));
    FAIL() << "not thrown";
  } catch (const NumericalError& error) {
    EXPECT_EQ(error.code(), ExitCode::kNumericalHalt);
    EXPECT_EQ(
        std::string(error.what()),
        "step 13: loss is not finite, model.layers.1.mlp.experts.down: output of op \"expert_ffn\" "
        "is not finite: NaN at [16, 0] of f32 [32, 16]: got loss nan, gradient norm nan (give " +
            (run / "recipe.textproto").string() +
            " a lower optim.lr, a longer warm-up or another guard policy, then: quern resume " +
            run.string() + ")");
  }
  EXPECT_EQ(list_checkpoints(run).back(), checkpoint_path(run, 12));
  EXPECT_EQ(events(run, "halted").size(), 1u);
  EXPECT_TRUE(fs::exists(run / "bad_steps/step-000013-sample-000000000048.json"));
  // Nothing changed: it halts again, at the same place. Another policy: it goes on.
  EXPECT_THROW(resume_run(run, bad_batches({48})), NumericalError);
  EXPECT_EQ(events(run, "halted").size(), 1u);
  Recipe mended = load_recipe(run / "recipe.textproto");
  mended.guard.on_bad_step = "skip";
  dir_.file("run/recipe.textproto", to_text(mended));
  EXPECT_EQ(resume_run(run, bad_batches({48})), ExitCode::kDone);
  expect_steps_once(run, 20);
}

TEST_F(GuardRunTest, KeepsFewBatchesOfMany) {
  recipe_.guard.keep_batches = 2;
  recipe_.guard.max_consecutive_skips = 3;
  EXPECT_THROW(train_run(recipe_, dir_ / "run", bad_batches({40, 44, 48, 52})), NumericalError);
  EXPECT_EQ(events(dir_ / "run", "skipped").size(), 3u);
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(dir_ / "run/bad_steps")) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  EXPECT_EQ(names, (std::vector<std::string>{"step-000011-sample-000000000048.json",
                                             "step-000011-sample-000000000052.json"}));
  recipe_.guard.keep_batches = 0;
  EXPECT_THROW(train_run(recipe_, dir_ / "none", bad_batches({40, 44, 48, 52})), NumericalError);
  EXPECT_FALSE(fs::exists(dir_ / "none/bad_steps"));
}

}  // namespace
}  // namespace quern
