// SPDX-License-Identifier: MIT
// A corpus and a recipe for tests of several ranks.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>

#include "tests/recipes/run_fixture.h"
#include "tests/recipes/same_tensors.h"
#include "tests/support/ranks.h"

namespace quern::testing {

// The first rank's folder, for all.
class Layouts : public ::testing::Test {
 protected:
  void SetUp() override {
    set_num_threads(1);
    if (world().rank() == 0) prepare_corpus(dir_, "corpus");
    shared_ = world().broadcast((dir_ / "").string(), 0);
    recipe_ = tiny_recipe(dir_);
    recipe_.data.train[0].path = shared_ / "corpus/train.h5";
    recipe_.data.validation = {shared_ / "corpus/validation.h5"};
    recipe_.data.tokenizer = shared_ / "corpus/tokenizer.json";
    recipe_.train.threads = 1;
    recipe_.train.batch_sequences = 16;
    recipe_.train.lanes = 4;
  }
  void TearDown() override { world().barrier(); }

  TempDir dir_;
  std::filesystem::path shared_;
  Recipe recipe_;
};

}  // namespace quern::testing
