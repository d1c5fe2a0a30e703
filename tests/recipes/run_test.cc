// SPDX-License-Identifier: MIT
// Whole runs: an interruption leaves no trace in the result.
#include "quern/recipes/run.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <csignal>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "quern/autograd/kernels/parallel.h"
#include "quern/data/sha256.h"
#include "quern/recipes/checkpoint.h"
#include "quern/recipes/internal/run_lock.h"
#include "quern/recipes/metrics.h"
#include "quern/recipes/stop_signal.h"
#include "tests/recipes/run_fixture.h"

namespace quern {
namespace {

namespace fs = std::filesystem;
using testing::bytes_of;
using testing::count_events;
using testing::expect_same_checkpoint;
using testing::expect_steps_once;
using testing::prepare_corpus;
using testing::RunTest;
using testing::tiny_recipe;

TEST_F(RunTest, AResumedRunEqualsTheUninterruptedOne) {
  const fs::path whole = dir_ / "whole";
  ASSERT_EQ(train_run(recipe_, whole), ExitCode::kDone);
  const fs::path resumed = cut_back(whole, 100, "resumed");
  dir_.file("resumed/checkpoints/step-000150.tmp/model.h5", "half of a model");
  ASSERT_EQ(resume_run(resumed), ExitCode::kDone);

  expect_same_checkpoint(checkpoint_path(whole, 200), checkpoint_path(resumed, 200));
  expect_steps_once(whole, 200);
  expect_steps_once(resumed, 200);
  EXPECT_EQ(count_events(resumed, "resumed"), 1);
  EXPECT_FALSE(fs::exists(dir_ / "resumed/checkpoints/step-000150.tmp"));

  const RunHistory a = read_metrics(whole / "metrics.jsonl");
  const RunHistory b = read_metrics(resumed / "metrics.jsonl");
  ASSERT_EQ(a.evals.size(), 4u);  // 50, 100, 150 and the end
  ASSERT_EQ(b.evals.size(), 4u);
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(a.evals[i].bits_per_byte, b.evals[i].bits_per_byte);
  EXPECT_LT(a.evals[3].bits_per_byte, a.evals[0].bits_per_byte);
  ASSERT_EQ(b.samples.size(), 2u);
  EXPECT_EQ(a.samples[1].text, b.samples[1].text);
  EXPECT_GE(b.steps.back().elapsed_s, b.steps[99].elapsed_s);
  for (const fs::path& run : {whole, resumed}) {
    EXPECT_TRUE(fs::exists(run / "finished"));
    EXPECT_GT(fs::file_size(run / "report.html"), 10'000u);
  }
}

TEST_F(RunTest, ASignalSavesAndTheRunGoesOn) {
  recipe_.train.steps = 400;
  const fs::path whole = dir_ / "whole", stopped = dir_ / "stopped";
  ASSERT_EQ(train_run(recipe_, whole), ExitCode::kDone);

  // Sent once some steps are in the log.
  std::atomic<bool> done = false;
  std::thread sender([&] {
    std::error_code error;
    while (!done && (fs::file_size(stopped / "metrics.jsonl", error) < 10'000 || error)) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    ::kill(::getpid(), SIGTERM);
  });
  const ExitCode code = train_run(recipe_, stopped);
  done = true;
  sender.join();
  ASSERT_EQ(code, ExitCode::kInterrupted);
  const auto saved = list_checkpoints(stopped);
  ASSERT_FALSE(saved.empty());
  EXPECT_LT(read_checkpoint_info(saved.back()).progress.step, 400);
  EXPECT_EQ(count_events(stopped, "interrupted"), 1);
  EXPECT_TRUE(fs::exists(stopped / "report.html"));
  EXPECT_FALSE(fs::exists(stopped / "finished"));

  ASSERT_EQ(resume_run(stopped), ExitCode::kDone);
  expect_same_checkpoint(checkpoint_path(whole, 400), checkpoint_path(stopped, 400));
  expect_steps_once(stopped, 400);
}

// In two dimensions, only the experts on the hull of all 32 ever have the largest logit.
TEST_F(RunTest, ACollapsedRouterIsNoticedOnce) {
  recipe_.train.steps = 120;
  recipe_.optim.lr = 1e-9;
  recipe_.model.hidden_size = 2;
  recipe_.model.n_routed_experts = 32;
  recipe_.model.num_experts_per_tok = 1;
  ASSERT_EQ(train_run(recipe_, dir_ / "run"), ExitCode::kDone);
  const RunHistory history = read_metrics(dir_ / "run/metrics.jsonl");
  std::vector<EventMetrics> warnings;
  for (const EventMetrics& e : history.events) {
    if (e.name == "router collapsed") warnings.push_back(e);
  }
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_EQ(warnings[0].step, 50);
  EXPECT_TRUE(warnings[0].detail.starts_with("model.layers.1.mlp: ")) << warnings[0].detail;
  const StepMetrics& last = history.steps.back();
  ASSERT_EQ(last.router.size(), 1u);
  const RouterMetrics& router = last.router[0];
  EXPECT_EQ(router.dead, double(last.dead_experts));
  EXPECT_NEAR(router.max_load, last.load_max_over_mean, 1e-4);
  EXPECT_LT(router.load_entropy, std::log(32 - router.dead) + 1e-4);
  EXPECT_GT(router.load_entropy, 0);
  EXPECT_GT(router.gate_entropy, 3);  // of scores still even: log(32) = 3.47
  EXPECT_NEAR(router.weight_sum, 1.0 / 32, 0.01);
  EXPECT_EQ(router.devices, 1);
  EXPECT_NEAR(recipe_.model.aux_loss_alpha * router.expert_loss, last.aux_loss, 1e-5);
}

TEST_F(RunTest, AKillBeforeTheFirstCheckpointStartsAgain) {
  recipe_.train.steps = 30;
  ASSERT_EQ(train_run(recipe_, dir_ / "whole"), ExitCode::kDone);
  const fs::path copy = cut_back(dir_ / "whole", 30, "copy");
  fs::remove_all(checkpoint_path(copy, 30));
  ASSERT_EQ(resume_run(copy), ExitCode::kDone);
  expect_same_checkpoint(checkpoint_path(dir_ / "whole", 30), checkpoint_path(copy, 30));
  expect_steps_once(copy, 30);
}

TEST_F(RunTest, AFinishedRunStaysAsItIs) {
  recipe_.train.steps = 10;
  ASSERT_EQ(train_run(recipe_, dir_ / "run"), ExitCode::kDone);
  const std::string log = bytes_of(dir_ / "run/metrics.jsonl");
  EXPECT_EQ(resume_run(dir_ / "run"), ExitCode::kDone);
  EXPECT_EQ(bytes_of(dir_ / "run/metrics.jsonl"), log);
  try {
    train_run(recipe_, dir_ / "run");
    FAIL() << "not thrown";
  } catch (const ConfigError& error) {
    EXPECT_NE(error.facts().hint.find("quern resume"), std::string::npos) << error.what();
  }
  EXPECT_THROW(resume_run(dir_ / "nowhere"), ConfigError);
}

TEST_F(RunTest, ContinuesPretrainingOnAnotherCorpus) {
  ASSERT_EQ(train_run(recipe_, dir_ / "first"), ExitCode::kDone);
  prepare_corpus(dir_, "other", 100, dir_ / "corpus/tokenizer.json");
  Recipe other = tiny_recipe(dir_, "other");
  other.train.steps = 20;
  other.train.checkpoint_every = 10;
  other.train.keep_checkpoints = 10;
  other.train.init_from = dir_ / "first";
  ASSERT_EQ(train_run(other, dir_ / "second"), ExitCode::kDone);
  const RunHistory first = read_metrics(dir_ / "first/metrics.jsonl");
  const RunHistory second = read_metrics(dir_ / "second/metrics.jsonl");
  EXPECT_LT(second.steps.front().loss, 0.7 * first.steps.front().loss);

  // Once there is a checkpoint, the first run is no longer needed.
  fs::remove_all(dir_ / "first");
  const fs::path resumed = cut_back(dir_ / "second", 10, "resumed");
  ASSERT_EQ(resume_run(resumed), ExitCode::kDone);
  expect_same_checkpoint(checkpoint_path(dir_ / "second", 20), checkpoint_path(resumed, 20));
}

// The tokenizer fits, but the run would go on over other text as if nothing had happened.
TEST_F(RunTest, ResumesOverTheSameDataOnly) {
  recipe_.train.steps = 20;
  recipe_.train.checkpoint_every = 10;
  ASSERT_EQ(train_run(recipe_, dir_ / "whole"), ExitCode::kDone);
  const fs::path run = cut_back(dir_ / "whole", 10, "run");
  fs::copy_file(dir_ / "whole/corpus.sha256", run / "corpus.sha256");
  const fs::path train = recipe_.data.train[0].path;
  const std::string log = bytes_of(run / "metrics.jsonl"), hash = sha256_of_file(train);
  fs::rename(train, dir_ / "moved.h5");
  prepare_corpus(dir_, "other", 100, dir_ / "corpus/tokenizer.json");
  fs::copy_file(dir_ / "other/train.h5", train);
  const std::string hint =
      " (a run keeps to its data; for other data: quern train with "
      "train.init_from = " +
      run.string() + ")";
  try {
    resume_run(run);
    FAIL() << "not thrown";
  } catch (const ConfigError& error) {
    EXPECT_EQ(error.code(), ExitCode::kUserInput);
    EXPECT_EQ(std::string(error.what()),
              train.string() +
                  ": data.train[0].path: not the token file that this run began with: "
                  "expected SHA-256 " +
                  hash + ", got " + sha256_of_file(train) + hint);
  }
  // One more file is other data too.
  Recipe mended = load_recipe(run / "recipe.textproto");
  mended.data.train[0].path = dir_ / "moved.h5";
  mended.data.train.push_back({.path = train});
  dir_.file("run/recipe.textproto", to_text(mended));
  try {
    resume_run(run);
    FAIL() << "not thrown";
  } catch (const ConfigError& error) {
    EXPECT_EQ(std::string(error.what()),
              (run / "recipe.textproto").string() +
                  ": data.train: expected 1 token files, as the run began, got 2" + hint);
  }
  EXPECT_EQ(bytes_of(run / "metrics.jsonl"), log) << "nothing is written";
  // The same bytes may lie elsewhere.
  mended.data.train.pop_back();
  dir_.file("run/recipe.textproto", to_text(mended));
  ASSERT_EQ(resume_run(run), ExitCode::kDone);
  EXPECT_EQ(read_metrics(run / "metrics.jsonl").steps.back().loss,
            read_metrics(dir_ / "whole/metrics.jsonl").steps.back().loss);
}

// Killed anywhere between the last checkpoint and the end, a run says everything once.
TEST_F(RunTest, NothingIsLoggedTwice) {
  recipe_.train.steps = 20;
  recipe_.train.checkpoint_every = recipe_.train.eval_every = 10;
  recipe_.train.sample_every = 10;
  recipe_.train.sample_prompts = {"the sea", "a rose", "no ship"};
  ASSERT_EQ(train_run(recipe_, dir_ / "whole"), ExitCode::kDone);
  const RunHistory whole = read_metrics(dir_ / "whole/metrics.jsonl");
  ASSERT_EQ(whole.evals.size(), 2u);
  ASSERT_EQ(whole.samples.size(), 6u);
  std::vector<std::string> lines;
  std::ifstream in(dir_ / "whole/metrics.jsonl");
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  // As if killed after every line that follows the checkpoint of step 10, or of step 20.
  for (const i64 step : {10, 20}) {
    for (size_t n = lines.size(); n > 0; --n) {
      const auto last = nlohmann::json::parse(lines[n - 1]);
      if (last["step"] == step && last.value("name", "") == "saving") break;
      SCOPED_TRACE("step " + std::to_string(step) + ", " + std::to_string(n) + " lines");
      if (n % 3 != 0) continue;  // each takes some tenths of a second
      const std::string name = std::to_string(step) + "_" + std::to_string(n);
      const fs::path copy = cut_back(dir_ / "whole", step, name);
      std::string text;
      for (size_t i = 0; i < n; ++i) text += lines[i] + "\n";
      dir_.file(name + "/metrics.jsonl", text);
      ASSERT_EQ(resume_run(copy), ExitCode::kDone);
      expect_steps_once(copy, 20);
      const RunHistory history = read_metrics(copy / "metrics.jsonl");
      ASSERT_EQ(history.evals.size(), 2u);
      ASSERT_EQ(history.samples.size(), 6u);
      for (size_t i = 0; i < 6; ++i) EXPECT_EQ(history.samples[i].text, whole.samples[i].text);
    }
  }
}

// The folder does not count as a run yet, so that the mended recipe can use it.
TEST_F(RunTest, AMistakeInInitFromLeavesNoRunBehind) {
  recipe_.train.steps = 5;
  recipe_.train.init_from = dir_ / "nowhere";
  EXPECT_THROW(train_run(recipe_, dir_ / "run"), ConfigError);
  recipe_.train.init_from.clear();
  EXPECT_EQ(train_run(recipe_, dir_ / "run"), ExitCode::kDone);
}

// A stop between a step and what comes after it: the evaluation is made up for.
TEST_F(RunTest, AnEvaluationBrokenOffIsMadeAgain) {
  recipe_.train.steps = 100;
  ASSERT_EQ(train_run(recipe_, dir_ / "whole"), ExitCode::kDone);
  Recipe every = recipe_;
  every.train.checkpoint_every = 50;
  ASSERT_EQ(train_run(every, dir_ / "other"), ExitCode::kDone);
  const fs::path stopped = cut_back(dir_ / "other", 50, "stopped");
  // Its log ends with step 50.
  std::ifstream in(dir_ / "other/metrics.jsonl");
  std::string log;
  for (std::string line; std::getline(in, line) && line.find("\"eval\"") == std::string::npos;) {
    log += line + "\n";
  }
  dir_.file("stopped/metrics.jsonl", log);
  ASSERT_EQ(resume_run(stopped), ExitCode::kDone);
  const RunHistory a = read_metrics(dir_ / "whole/metrics.jsonl");
  const RunHistory b = read_metrics(stopped / "metrics.jsonl");
  ASSERT_EQ(b.evals.size(), a.evals.size());
  for (size_t i = 0; i < a.evals.size(); ++i) {
    EXPECT_EQ(a.evals[i].step, b.evals[i].step);
    EXPECT_EQ(a.evals[i].bits_per_byte, b.evals[i].bits_per_byte);
  }
}

// A kill within the end of a run, after its last evaluation.
TEST_F(RunTest, TheEndIsReachedOnceOnly) {
  recipe_.train.steps = 10;
  recipe_.train.sample_every = 5;
  ASSERT_EQ(train_run(recipe_, dir_ / "run"), ExitCode::kDone);
  const RunHistory before = read_metrics(dir_ / "run/metrics.jsonl");
  fs::remove(dir_ / "run/finished");
  dir_.file("run/checkpoints/step-000005.tmp/model.h5", "half deleted");
  ASSERT_EQ(resume_run(dir_ / "run"), ExitCode::kDone);
  const RunHistory after = read_metrics(dir_ / "run/metrics.jsonl");
  EXPECT_EQ(after.evals.size(), before.evals.size());
  EXPECT_EQ(after.samples.size(), before.samples.size());
  EXPECT_FALSE(fs::exists(dir_ / "run/checkpoints/step-000005.tmp"));
}

// Wherever a signal finds a run: the steps until it is looked at are finished and saved.
TEST_F(RunTest, ASignalBeforeTheFirstStepSavesTheBeginning) {
  recipe_.train.steps = 20;
  ASSERT_EQ(train_run(recipe_, dir_ / "whole"), ExitCode::kDone);
  {
    const StopSignals signals;
    ::raise(SIGUSR1);
    EXPECT_EQ(train_run(recipe_, dir_ / "run"), ExitCode::kInterrupted);
    EXPECT_EQ(newest_checkpoint(dir_ / "run")->folder, checkpoint_path(dir_ / "run", 0));
    EXPECT_EQ(resume_run(dir_ / "run"), ExitCode::kInterrupted);
  }
  ASSERT_EQ(resume_run(dir_ / "run"), ExitCode::kDone);
  expect_same_checkpoint(checkpoint_path(dir_ / "whole", 20), checkpoint_path(dir_ / "run", 20));
  expect_steps_once(dir_ / "run", 20);
}

TEST_F(RunTest, TwoAtOnceAreOneTooMany) {
  recipe_.train.steps = 10;
  ASSERT_EQ(train_run(recipe_, dir_ / "run"), ExitCode::kDone);
  EXPECT_FALSE(fs::exists(dir_ / "run/lock"));
  fs::remove(dir_ / "run/finished");
  {
    const RunLock other(dir_ / "run");
    try {
      resume_run(dir_ / "run");
      FAIL() << "not thrown";
    } catch (const ConfigError& error) {
      EXPECT_EQ(error.code(), ExitCode::kUserInput);
      EXPECT_NE(error.facts().actual.find("process " + std::to_string(::getpid()) + " on "),
                std::string::npos)
          << error.what();
    }
    EXPECT_THROW(train_run(recipe_, dir_ / "run"), ConfigError);
  }
  dir_.file("run/lock", "elsewhere 1\n");  // left by a process that was killed
  EXPECT_EQ(resume_run(dir_ / "run"), ExitCode::kDone);
}

TEST_F(RunTest, AProbeFindsTheNumberOfSteps) {
  recipe_.train.steps = 0;
  recipe_.train.target_minutes = 0.5 / 60;
  recipe_.optim.warmup_steps = 100;
  ASSERT_EQ(train_run(recipe_, dir_ / "run"), ExitCode::kDone);
  const Recipe resolved = load_recipe(dir_ / "run/recipe.textproto");
  EXPECT_GE(resolved.train.steps, 10);
  EXPECT_LE(resolved.optim.warmup_steps, resolved.train.steps / 5);
  expect_steps_once(dir_ / "run", resolved.train.steps);
}

TEST_F(RunTest, RefusesFilesOfDifferentTokenizers) {
  prepare_corpus(dir_, "foreign", 500);
  Recipe wrong = recipe_;
  wrong.data.tokenizer = dir_ / "foreign/tokenizer.json";
  EXPECT_THROW(train_run(wrong, dir_ / "run"), DataError);
  wrong = recipe_;
  wrong.data.validation = {dir_ / "foreign/validation.h5"};
  EXPECT_THROW(train_run(wrong, dir_ / "run"), DataError);
  EXPECT_FALSE(fs::exists(dir_ / "run"));
}

}  // namespace
}  // namespace quern
