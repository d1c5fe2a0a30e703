// SPDX-License-Identifier: MIT
// A small prepared corpus and a recipe whose steps take about a millisecond.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "quern/autograd/kernels/parallel.h"
#include "quern/recipes/recipe.h"
#include "tests/support/temp_dir.h"

namespace quern::testing {

// Sentences of a made-up language, always the same for a number.
std::string made_up_text(int number, int sentences);

// Prepares `dir`/<name>/{tokenizer.json,train.h5,validation.h5} from 40 documents numbered from
// `first`; with the tokenizer of `like`, if given.
void prepare_corpus(const TempDir& dir, const std::string& name, int first = 0,
                    const std::string& like = "");

// Trains on `dir`/`name`: two layers, dense and MoE, 4 sequences of 16 tokens a step.
Recipe tiny_recipe(const TempDir& dir, const std::string& name = "corpus");

std::string bytes_of(const std::filesystem::path& file);

void expect_same_checkpoint(const std::filesystem::path& a, const std::filesystem::path& b);
// Every step once, in order, whatever happened in between.
void expect_steps_once(const std::filesystem::path& run, i64 steps);

i64 count_events(const std::filesystem::path& run, const std::string& name);

// A copy of a run as a kill after step `step` would have left it.
std::filesystem::path cut_back(const std::filesystem::path& run, i64 step,
                               const std::filesystem::path& copy);

// 200 steps with checkpoints, evaluations and samples.
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

  std::filesystem::path cut_back(const std::filesystem::path& run, i64 step,
                                 const std::string& name) {
    return testing::cut_back(run, step, dir_ / name);
  }

  TempDir dir_;
  Recipe recipe_;
};

}  // namespace quern::testing
