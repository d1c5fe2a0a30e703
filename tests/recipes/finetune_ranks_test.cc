// SPDX-License-Identifier: MIT
// Runs that fine-tune on several ranks leave the folder of one, whatever stopped them on the way.
#include <gtest/gtest.h>

#include "tests/recipes/finetune_runs.h"
#include "tests/support/ranks.h"

namespace quern {
namespace {

namespace fs = std::filesystem;
using testing::world;

// The first rank's folder, for all; it alone has the recipe.
class FinetuneRanks : public ::testing::Test {
 protected:
  void SetUp() override {
    if (world().rank() == 0) testing::prepare_finetuning(dir_);
    run_ = fs::path(world().broadcast((dir_ / "").string(), 0)) / "run";
  }
  void TearDown() override { world().barrier(); }

  Recipe recipe(const std::string& method) const {
    Recipe r;
    if (world().rank() == 0) r = testing::finetuning(dir_, method);
    r.train.threads = 1;
    return r;
  }
  // Always begun in the same folder, which its recipe and so its bytes tell.
  fs::path kept(const std::string& name) const {
    const fs::path there = run_.parent_path() / name;
    if (world().rank() == 0) fs::rename(run_, there);
    world().barrier();
    return there;
  }
  fs::path alone(const Recipe& recipe, const std::string& name, const StepHooks& hooks = {}) const {
    if (world().rank() == 0) train_run(recipe, run_, hooks);
    return kept(name);
  }

  TempDir dir_;
  fs::path run_;
};

TEST_F(FinetuneRanks, InterruptionsLeaveNoTrace) {
  for (const std::string method : {"full", "experts"}) {
    SCOPED_TRACE(method);
    const Recipe r = recipe(method);
    const fs::path one = alone(r, method + "_one");
    testing::train_in_pieces(r, run_, 8, world());
    const fs::path all = kept(method + "_all");
    if (world().rank() == 0) testing::expect_same_end(one, all);
  }
}

// One rank begins, all go on: when the best evaluation is behind them, and they still wait.
TEST_F(FinetuneRanks, MoreRanksGoOn) {
  const Recipe r = recipe("lora");
  const fs::path one = alone(r, "one");
  i64 step = 0;
  if (world().rank() == 0) step = step_of(list_checkpoints(one).back()) + 5;
  step = std::stoll(world().broadcast(std::to_string(step), 0));
  const fs::path all = alone(r, "all", testing::in_steps(step, [](i64) { raise(SIGTERM); }));
  ASSERT_EQ(resume_run(all, {}, world()), ExitCode::kDone);
  if (world().rank() == 0) testing::expect_same_end(one, all);
}

}  // namespace
}  // namespace quern
