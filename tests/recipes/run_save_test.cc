// SPDX-License-Identifier: MIT
// What runs keep of their checkpoints, and what they do where one is damaged or cannot be written.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>

#include "quern/data/hdf5_file.h"
#include "quern/recipes/checkpoint.h"
#include "quern/recipes/metrics.h"
#include "quern/recipes/run.h"
#include "tests/recipes/run_fixture.h"
#include "tests/support/file_size_limit.h"

namespace quern {
namespace {

namespace fs = std::filesystem;
using testing::bytes_of;
using testing::count_events;
using testing::expect_same_checkpoint;
using testing::expect_steps_once;
using testing::FileSizeLimit;
using testing::RunTest;

TEST_F(RunTest, KeepsAsManyCheckpointsAsAsked) {
  recipe_.train.steps = 50;
  recipe_.train.checkpoint_every = 8;
  recipe_.train.keep_checkpoints = 3;
  ASSERT_EQ(train_run(recipe_, dir_ / "run"), ExitCode::kDone);
  EXPECT_EQ(list_checkpoints(dir_ / "run"),
            (std::vector{checkpoint_path(dir_ / "run", 40), checkpoint_path(dir_ / "run", 48),
                         checkpoint_path(dir_ / "run", 50)}));
}

TEST_F(RunTest, HaltsWithTheLastGoodStateSaved) {
  recipe_.optim.lr = 10;  // with this decay, weights grow a hundredfold in each step
  recipe_.optim.weight_decay = 10;
  recipe_.optim.warmup_steps = 0;
  recipe_.train.eval_every = recipe_.train.sample_every = 0;
  EXPECT_THROW(train_run(recipe_, dir_ / "run"), NumericalError);
  const i64 steps = i64(read_metrics(dir_ / "run/metrics.jsonl").steps.size());
  ASSERT_GT(steps, 0);
  EXPECT_EQ(list_checkpoints(dir_ / "run").back(), checkpoint_path(dir_ / "run", steps));
  EXPECT_EQ(count_events(dir_ / "run", "halted"), 1);
  EXPECT_TRUE(fs::exists(dir_ / "run/report.html"));
}

TEST_F(RunTest, GoesOnFromTheNewestWholeCheckpoint) {
  recipe_.train.steps = 30;
  recipe_.train.checkpoint_every = 10;
  ASSERT_EQ(train_run(recipe_, dir_ / "run"), ExitCode::kDone);
  fs::remove(dir_ / "run/finished");
  const fs::path newest = checkpoint_path(dir_ / "run", 30);
  const std::string good = bytes_of(newest / "model.h5");
  fs::resize_file(newest / "model.h5", good.size() / 2);
  dir_.file("run/checkpoints/step-000020/MANIFEST", "");
  EXPECT_EQ(resume_run(dir_ / "run"), ExitCode::kDone);
  EXPECT_TRUE(bytes_of(newest / "model.h5") == good);
  EXPECT_EQ(count_events(dir_ / "run", "checkpoint skipped"), 2);
  expect_steps_once(dir_ / "run", 30);
  EXPECT_EQ(newest_checkpoint(dir_ / "run")->skipped.size(), 0u);
}

TEST_F(RunTest, WithoutAWholeCheckpointItSaysWhatToDo) {
  recipe_.train.steps = 10;
  ASSERT_EQ(train_run(recipe_, dir_ / "run"), ExitCode::kDone);
  fs::remove(dir_ / "run/finished");
  const std::string log = bytes_of(dir_ / "run/metrics.jsonl");
  const fs::path model = checkpoint_path(dir_ / "run", 10) / "model.h5";
  fs::resize_file(model, 1000);
  try {
    resume_run(dir_ / "run");
    FAIL() << "not thrown";
  } catch (const CheckpointError& error) {
    EXPECT_EQ(error.facts().file, model);
    EXPECT_NE(error.facts().hint.find("delete " + (dir_ / "run/checkpoints").string()),
              std::string::npos);
  }
  EXPECT_EQ(bytes_of(dir_ / "run/metrics.jsonl"), log);
}

TEST_F(RunTest, KeepsTheBestCheckpointAndEveryMth) {
  recipe_.optim.lr = 0.5;  // too much: the first evaluation stays the best
  recipe_.train.steps = 60;
  recipe_.train.checkpoint_every = recipe_.train.eval_every = 6;
  recipe_.train.sample_every = 0;
  recipe_.train.keep_checkpoints = 2;
  recipe_.train.keep_every = 24;
  recipe_.train.keep_best = true;
  ASSERT_EQ(train_run(recipe_, dir_ / "run"), ExitCode::kDone);
  const RunHistory history = read_metrics(dir_ / "run/metrics.jsonl");
  const auto best = std::min_element(
      history.evals.begin(), history.evals.end() - 1,
      [](const auto& a, const auto& b) { return a.bits_per_byte < b.bits_per_byte; });
  std::set<i64> expected = {24, 48, 54, 60, best->step};
  std::set<i64> kept;
  for (const fs::path& c : list_checkpoints(dir_ / "run")) kept.insert(step_of(c));
  EXPECT_EQ(kept, expected);
}

TEST_F(RunTest, ASaveThatFailsHaltsOrWarns) {
  recipe_.train.steps = 12;
  recipe_.train.checkpoint_every = 4;
  recipe_.train.eval_every = recipe_.train.sample_every = 0;
  for (const std::string policy : {"halt", "warn"}) {
    recipe_.train.on_save_error = policy;  // checkpoints hold the recipe, so each has its twin
    const fs::path run = dir_ / policy, whole = dir_ / ("whole_" + policy);
    ASSERT_EQ(train_run(recipe_, whole), ExitCode::kDone);
    {
      const auto weights = fs::file_size(checkpoint_path(whole, 8) / "model.h5");
      const FileSizeLimit limit(weights - 1);
      try {
        train_run(recipe_, run);
        FAIL() << "not thrown";
      } catch (const IoError& error) {
        EXPECT_EQ(error.code(), ExitCode::kEnvironment);
        EXPECT_NE(error.facts().file.find("model.h5"), std::string::npos) << error.what();
        EXPECT_NE(error.facts().hint.find("nothing is saved yet"), std::string::npos);
      }
    }
    // With "warn" the run went on to its end, whose save must succeed.
    EXPECT_EQ(count_events(run, "save failed"), policy == "warn" ? 2 : 0);
    EXPECT_EQ(read_metrics(run / "metrics.jsonl").steps.size(), policy == "warn" ? 12u : 4u);
    EXPECT_TRUE(fs::is_empty(run / "checkpoints"));
    ASSERT_EQ(resume_run(run), ExitCode::kDone);
    expect_same_checkpoint(checkpoint_path(whole, 12), checkpoint_path(run, 12));
    expect_steps_once(run, 12);
  }
}

TEST_F(RunTest, SavesFromACopyWhileTrainingGoesOn) {
  recipe_.train.steps = 30;
  recipe_.train.checkpoint_every = 7;
  recipe_.train.eval_every = recipe_.train.sample_every = 0;
  ASSERT_EQ(train_run(recipe_, dir_ / "in_place"), ExitCode::kDone);
  recipe_.train.background_save = true;
  ASSERT_EQ(train_run(recipe_, dir_ / "behind"), ExitCode::kDone);
  for (const i64 step : {7, 14, 21, 28, 30}) {
    const fs::path a = checkpoint_path(dir_ / "in_place", step);
    const fs::path b = checkpoint_path(dir_ / "behind", step);
    EXPECT_TRUE(is_whole(b)) << step;
    for (const char* file : {"model.h5", "optimizer.h5"}) {  // whose recipes differ
      const Hdf5Reader x(a / file), y(b / file);
      for (const std::string& name : x.names()) {
        EXPECT_TRUE(std::ranges::equal(x.read(name).bytes(), y.read(name).bytes())) << name;
      }
    }
  }
  const fs::path resumed = cut_back(dir_ / "behind", 14, "resumed");
  ASSERT_EQ(resume_run(resumed), ExitCode::kDone);
  expect_same_checkpoint(checkpoint_path(dir_ / "behind", 30), checkpoint_path(resumed, 30));
}

// The disk is full until the last save.
TEST_F(RunTest, ASaveThatFailsInTheBackgroundWarns) {
  recipe_.train.steps = 12;
  recipe_.train.checkpoint_every = 4;
  recipe_.train.eval_every = recipe_.train.sample_every = 0;
  recipe_.train.background_save = true;
  ASSERT_EQ(train_run(recipe_, dir_ / "whole"), ExitCode::kDone);
  const auto weights = fs::file_size(checkpoint_path(dir_ / "whole", 8) / "model.h5");
  for (const std::string policy : {"halt", "warn"}) {
    recipe_.train.on_save_error = policy;
    const fs::path run = dir_ / policy;
    {
      const FileSizeLimit limit(weights - 100);
      EXPECT_THROW(train_run(recipe_, run), IoError);
    }
    if (policy == "warn") {
      EXPECT_EQ(count_events(run, "save failed"), 2);
      EXPECT_EQ(read_metrics(run / "metrics.jsonl").steps.size(), 12u);
    }
    EXPECT_TRUE(fs::is_empty(run / "checkpoints"));
    ASSERT_EQ(resume_run(run), ExitCode::kDone);
    expect_steps_once(run, 12);
  }
}

}  // namespace
}  // namespace quern
