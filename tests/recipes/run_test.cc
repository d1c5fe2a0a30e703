// SPDX-License-Identifier: MIT
// Whole runs: an interruption leaves no trace in the result.
#include "quern/recipes/run.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
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
using testing::prepare_corpus;
using testing::tiny_recipe;

void expect_same_checkpoint(const fs::path& a, const fs::path& b) {
  for (const char* file : {"model.h5", "optimizer.h5"}) {
    EXPECT_TRUE(bytes_of(a / file) == bytes_of(b / file)) << file;
  }
}

// Every step once, in order, whatever happened in between.
void expect_steps_once(const fs::path& run, i64 steps) {
  const RunHistory history = read_metrics(run / "metrics.jsonl");
  ASSERT_EQ(i64(history.steps.size()), steps);
  for (i64 i = 0; i < steps; ++i) EXPECT_EQ(history.steps[size_t(i)].step, i + 1);
}

i64 count_events(const fs::path& run, const std::string& name) {
  const RunHistory history = read_metrics(run / "metrics.jsonl");
  return std::count_if(history.events.begin(), history.events.end(),
                       [&](const EventMetrics& e) { return e.name == name; });
}

// While alive, no file grows beyond this: writing more fails as on a full disk.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    before_handler_ = std::signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, before_handler_);
  }

 private:
  rlimit before_{};
  void (*before_handler_)(int);
};

class RunTest : public ::testing::Test {
 protected:
  void SetUp() override {
    prepare_corpus(dir_, "corpus");
    recipe_ = tiny_recipe(dir_);
    recipe_.train.checkpoint_every = 100;
    recipe_.train.keep_checkpoints = 10;
    recipe_.train.eval_every = 50;
    recipe_.train.sample_every = 100;
    recipe_.train.sample_prompts = {"the sea"};
    recipe_.train.sample_tokens = 10;
  }
  void TearDown() override { set_num_threads(1); }

  // A copy of a run as a kill after step `step` would have left it.
  fs::path cut_back(const fs::path& run, i64 step, const std::string& name) {
    const fs::path copy = dir_ / name;
    fs::create_directories(copy / "checkpoints");
    for (const char* file : {"recipe.textproto", "tokenizer.json", "metrics.jsonl"}) {
      fs::copy_file(run / file, copy / file);
    }
    fs::copy(checkpoint_path(run, step), checkpoint_path(copy, step));
    return copy;
  }

  TempDir dir_;
  Recipe recipe_;
};

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

TEST_F(RunTest, KeepsAsManyCheckpointsAsAsked) {
  recipe_.train.steps = 50;
  recipe_.train.checkpoint_every = 8;
  recipe_.train.keep_checkpoints = 3;
  ASSERT_EQ(train_run(recipe_, dir_ / "run"), ExitCode::kDone);
  EXPECT_EQ(list_checkpoints(dir_ / "run"),
            (std::vector{checkpoint_path(dir_ / "run", 40), checkpoint_path(dir_ / "run", 48),
                         checkpoint_path(dir_ / "run", 50)}));
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
