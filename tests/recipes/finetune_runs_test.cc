// SPDX-License-Identifier: MIT
// Runs that fine-tune end with the same bytes on any number of threads, and whatever stopped them
// on the way.
#include "tests/recipes/finetune_runs.h"

#include <gtest/gtest.h>

#include <memory>

#include "quern/data/atomic_file.h"
#include "quern/recipes/expert_scores.h"
#include "quern/recipes/trainer.h"
#include "tests/support/toy_model.h"

namespace quern {
namespace {

namespace fs = std::filesystem;
using testing::finetuning;

class FinetuneRuns : public ::testing::TestWithParam<const char*> {
 protected:
  static void SetUpTestSuite() {
    dir_ = std::make_unique<TempDir>();
    testing::prepare_finetuning(*dir_);
  }
  static void TearDownTestSuite() { dir_.reset(); }
  void TearDown() override { set_num_threads(1); }

  // A run of this name, always begun in the same folder, which its recipe and so its bytes tell.
  fs::path kept(const std::string& name) const {
    const fs::path there = *dir_ / (name + "_" + GetParam());
    fs::rename(*dir_ / "run", there);
    return there;
  }

  static std::unique_ptr<TempDir> dir_;
};
std::unique_ptr<TempDir> FinetuneRuns::dir_;

TEST_P(FinetuneRuns, ThreadsChangeNoBit) {
  Recipe recipe = finetuning(*dir_, GetParam());
  recipe.model.hidden_size = 96;  // wide enough that every kernel has several chunks
  recipe.model.moe_intermediate_size = 40;
  recipe.data.sequence_length = 64;
  recipe.finetune.experts_file = *dir_ / "experts.json";
  write_file_atomically(recipe.finetune.experts_file, to_json({.experts = {{1, {0, 3}}}}));
  std::vector<Tensor> weights[2];
  std::vector<double> norms[2];
  for (const int threads : {1, 2}) {
    set_num_threads(threads);
    Trainer trainer(recipe, make_sampler(recipe));
    for (i64 s = 0; s < 5; ++s) {
      norms[threads - 1].push_back(trainer.step(trainer.batch_of(s)).grad_norm);
    }
    for (const Parameter* p : trainer.trained()) weights[threads - 1].push_back(p->value.clone());
  }
  EXPECT_EQ(norms[0], norms[1]);
  for (size_t i = 0; i < weights[0].size(); ++i) {
    EXPECT_TRUE(testing::same_bits(weights[0][i], weights[1][i])) << i;
  }
}

// Signals stop it, among other places in the evaluation that ends the run's patience; and kills
// leave the folder as it was in the middle of a step, before the best evaluation or behind it, or
// at the end, after the run has gone back to the best.
TEST_P(FinetuneRuns, InterruptionsLeaveNoTrace) {
  const Recipe recipe = finetuning(*dir_, GetParam());
  std::vector<fs::path> killed;
  const auto copy = [&](const fs::path& run) {
    killed.push_back(*dir_ / ("killed_" + std::to_string(killed.size()) + GetParam()));
    fs::copy(run, killed.back(), fs::copy_options::recursive);
  };
  const StepHooks kills = testing::in_steps(9, [&](i64) { copy(*dir_ / "run"); });
  ASSERT_EQ(train_run(recipe, *dir_ / "run", kills), ExitCode::kDone);
  const fs::path whole = kept("whole");
  EXPECT_EQ(testing::count_events(whole, "stopped early"), 1);  // to the best evaluation
  EXPECT_LT(step_of(list_checkpoints(whole).back()), 100);

  const i64 every = recipe.finetune.method == "full" ? 1 : 2;  // evaluation
  testing::train_in_pieces(recipe, *dir_ / "run", every * recipe.train.eval_every);
  testing::expect_same_end(whole, kept("stopped"));
  EXPECT_GE(killed.size(), 1u);
  copy(whole);
  fs::remove(killed.back() / "finished");
  for (const fs::path& run : killed) {
    SCOPED_TRACE(run.filename());
    ASSERT_EQ(resume_run(run), ExitCode::kDone);
    testing::expect_same_end(whole, run);
  }
}

INSTANTIATE_TEST_SUITE_P(Methods, FinetuneRuns, ::testing::Values("full", "experts", "lora"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace quern
