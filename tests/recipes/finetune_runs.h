// SPDX-License-Identifier: MIT
// Runs that fine-tune, with all that an interruption could disturb: conversations beside the base
// corpus, a teacher, a sampled evaluation, and the wait for a better one.
#pragma once

#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>
#include <string>

#include "quern/data/prepare.h"
#include "quern/recipes/checkpoint.h"
#include "quern/recipes/metrics.h"
#include "quern/recipes/run.h"
#include "tests/recipes/run_fixture.h"
#include "tests/recipes/same_tensors.h"

namespace quern::testing {

// A corpus, conversations in its tokens, a model of the corpus and a larger one.
inline void prepare_finetuning(const TempDir& dir) {
  prepare_corpus(dir, "corpus");
  std::string rows;
  for (int i = 0; i < 60; ++i) {
    const std::string text = made_up_text(1000 + i, 1);
    const std::string answer = text.substr(0, text.find(' ', 12));
    rows += "{\"prompt\": \"the sea\", \"completion\": \"" + answer + "\"}\n";
  }
  PrepareOptions chat;
  chat.train = {dir.file("chat.jsonl", rows)};
  chat.validation_fraction = 0.3;
  chat.tokenizer = dir / "corpus/tokenizer.json";
  chat.max_row_tokens = 32;
  chat.out = dir / "chat";
  prepare(chat);
  Recipe base = tiny_recipe(dir);
  base.train.steps = 30;
  base.train.eval_every = 0;
  ASSERT_EQ(train_run(base, dir / "base"), ExitCode::kDone);
  base.model.hidden_size = 24;
  ASSERT_EQ(train_run(base, dir / "teacher"), ExitCode::kDone);
}

// "full", "experts" or "lora". The rate is so high that the best evaluation is soon behind it.
inline Recipe finetuning(const TempDir& dir, const std::string& method) {
  Recipe r = tiny_recipe(dir);
  r.data.train = {{.path = dir / "chat/train.h5"},
                  {.path = dir / "corpus/train.h5", .weight = 0.25}};
  r.data.validation = {dir / "chat/validation.h5"};
  r.data.sequence_length = 32;
  r.optim.schedule = "constant";
  r.optim.lr = 0.3;
  r.train.init_from = dir / "base";
  r.train.steps = 300;
  r.train.batch_sequences = 4;
  r.train.lanes = 2;
  r.train.checkpoint_every = 3;
  r.train.eval_every = 4;
  r.train.eval_max_tokens = 128;
  r.train.patience = 2;
  r.finetune = {.method = method,
                .threshold = 0.3,
                .score_tokens = 512,
                .lora_rank = 2,
                .distill_from = dir / "teacher"};
  validate(r);
  return r;
}

// Calls `f` in the middle of each step that is a multiple of `every`, on one rank.
template <class F>
StepHooks in_steps(i64 every, F f) {
  StepHooks hooks;
  hooks.watch = [=](i64 sample, i64 lane) {
    const i64 step = sample / 4 + 1;
    if (lane == 1 && step % every == 0) f(step);
    return TapeWatch();
  };
  return hooks;
}

// Trains, and whenever a signal in a multiple of `every` steps has stopped it, resumes.
inline void train_in_pieces(const Recipe& recipe, const std::filesystem::path& run, i64 every,
                            const Communicator& ranks = {}) {
  const StepHooks stops = in_steps(every, [](i64) { raise(SIGTERM); });
  ExitCode code = train_run(recipe, run, stops, ranks);
  int pieces = 1;
  for (; code == ExitCode::kInterrupted && pieces < 100; ++pieces) {
    code = resume_run(run, stops, ranks);
  }
  ASSERT_EQ(code, ExitCode::kDone);
  EXPECT_GT(pieces, 2);
}

// Of two finished runs: the newest checkpoints, to the byte, or where ranks have written shards,
// tensor by tensor; and the logs, but for times.
inline void expect_same_end(const std::filesystem::path& a, const std::filesystem::path& b) {
  const auto last = list_checkpoints(a).back();
  ASSERT_EQ(last.filename(), list_checkpoints(b).back().filename());
  const auto other = list_checkpoints(b).back();
  const bool shards = !Hdf5Reader(other / "model.h5").shards().empty();
  shards ? expect_same_tensors(last, other) : expect_same_checkpoint(last, other);
  expect_steps_once(b, step_of(last));
  const RunHistory x = read_metrics(a / "metrics.jsonl"), y = read_metrics(b / "metrics.jsonl");
  ASSERT_EQ(x.evals.size(), y.evals.size());
  for (size_t i = 0; i < x.evals.size(); ++i) {
    EXPECT_EQ(x.evals[i].step, y.evals[i].step);
    EXPECT_EQ(x.evals[i].bits_per_byte, y.evals[i].bits_per_byte);
  }
  EXPECT_EQ(count_events(a, "stopped early"), count_events(b, "stopped early"));
}

}  // namespace quern::testing
