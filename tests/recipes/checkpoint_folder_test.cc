// SPDX-License-Identifier: MIT
// Folders of checkpoints: published whole or not at all, deleted last.
#include "quern/recipes/checkpoint_folder.h"

#include "quern/autograd/error.h"
#include "quern/data/manifest.h"
#include "tests/recipes/run_fixture.h"

namespace quern {
namespace {

namespace fs = std::filesystem;
using testing::bytes_of;

class CheckpointFolder : public ::testing::Test {
 protected:
  // A checkpoint of two small files, `a` and `b`.
  void publish(i64 step, const std::string& text = "text", i64 bytes = 100) {
    PendingCheckpoint pending(run_, step, bytes);
    const fs::path folder = pending_path(run_, step);
    std::ofstream(folder / "a") << text;
    std::ofstream(folder / "b") << "b of step " << step;
    pending.publish(seal_files(folder, {"b", "a"}));
  }
  fs::path at(i64 step) const { return checkpoint_path(run_, step); }
  void damage(i64 step) { std::ofstream(at(step) / "a") << "damaged"; }
  std::set<i64> steps() const {
    std::set<i64> found;
    for (const fs::path& c : list_checkpoints(run_)) found.insert(step_of(c));
    return found;
  }
  std::set<std::string> entries() const {
    std::set<std::string> names;
    for (const auto& e : fs::directory_iterator(run_ / "checkpoints")) {
      names.insert(e.path().filename());
    }
    return names;
  }
  std::set<i64> pruned(i64 newest, Retention retention) {
    prune_checkpoints(run_, newest, retention);
    return steps();
  }

  TempDir dir_;
  fs::path run_ = dir_ / "run";
};

TEST_F(CheckpointFolder, PublishesWholeFolders) {
  publish(7);
  EXPECT_EQ(verify_folder(at(7)).files.size(), 2u);
  EXPECT_EQ(bytes_of(run_ / "checkpoints/latest"), "step-000007\n");
  EXPECT_EQ(entries(), (std::set<std::string>{"latest", "step-000007"}));
  EXPECT_EQ(newest_checkpoint(run_)->folder, at(7));
  EXPECT_FALSE(newest_checkpoint(dir_ / "nothing"));
}

TEST_F(CheckpointFolder, WhatFailsLeavesNothingAndHarmsNothing) {
  publish(7);
  {
    const PendingCheckpoint dropped(run_, 8, 1);
    std::ofstream(pending_path(run_, 8) / "a") << "half";
    // A file that was promised and not written.
    EXPECT_THROW(seal_files(pending_path(run_, 8), {"a", "b"}), DataError);
  }
  EXPECT_EQ(entries(), (std::set<std::string>{"latest", "step-000007"}));
  EXPECT_EQ(newest_checkpoint(run_)->folder, at(7));
}

TEST_F(CheckpointFolder, LooksForRoomFirst) {
  try {
    publish(1, "text", i64{1} << 60);
    FAIL() << "not thrown";
  } catch (const IoError& error) {
    EXPECT_EQ(error.code(), ExitCode::kEnvironment);
    EXPECT_EQ(error.facts().expected, "1152921504606846976 bytes free");
    EXPECT_GT(std::stoll(error.facts().actual), 0);
  }
  EXPECT_TRUE(entries().empty());
}

TEST_F(CheckpointFolder, TheSameStepAgain) {
  publish(7, "one");
  const auto written = fs::last_write_time(at(7) / "a");
  publish(7, "one");
  EXPECT_EQ(fs::last_write_time(at(7) / "a"), written) << "a whole one was written again";
  publish(7, "two");
  EXPECT_EQ(bytes_of(at(7) / "a"), "two");
  damage(7);
  publish(7, "two");
  EXPECT_EQ(bytes_of(at(7) / "a"), "two");
  fs::remove_all(at(7));
  std::ofstream(at(7)) << "a file in its place";
  publish(7, "two");
  EXPECT_EQ(bytes_of(at(7) / "a"), "two");
  EXPECT_EQ(entries(), (std::set<std::string>{"latest", "step-000007"}));
}

TEST_F(CheckpointFolder, TheHintIsNotBelieved) {
  publish(7);
  publish(9);
  std::ofstream(run_ / "checkpoints/latest") << "step-000007\n";
  EXPECT_EQ(newest_checkpoint(run_)->folder, at(9));
  std::ofstream(run_ / "checkpoints/latest") << "../../etc\n";
  EXPECT_EQ(newest_checkpoint(run_)->folder, at(9));
}

TEST_F(CheckpointFolder, PassesOverWhatIsDamaged) {
  for (const i64 step : {1, 2, 3, 4, 5}) publish(step);
  damage(5);
  fs::remove(at(4) / "b");
  fs::remove(at(3) / "MANIFEST");
  const auto newest = newest_checkpoint(run_);
  EXPECT_EQ(newest->folder, at(2));
  ASSERT_EQ(newest->skipped.size(), 3u);
  EXPECT_NE(newest->skipped[0].why.find("step-000005/a: damaged"), std::string::npos);
  EXPECT_NE(newest->skipped[1].why.find("step-000004/b: no such file"), std::string::npos);
  EXPECT_NE(newest->skipped[2].why.find("step-000003: has no MANIFEST"), std::string::npos);
  damage(2);
  damage(1);
  try {
    newest_checkpoint(run_);
    FAIL() << "not thrown";
  } catch (const CheckpointError& error) {
    EXPECT_EQ(error.facts().file, at(5) / "a");
    EXPECT_EQ(error.code(), ExitCode::kIntegrity);
  }
}

TEST_F(CheckpointFolder, KeepsTheLastOnesThatVerify) {
  for (const i64 step : {1, 2, 3, 4, 5, 6}) publish(step);
  damage(5);
  damage(2);
  EXPECT_EQ(pruned(6, {.last = 3}), (std::set<i64>{3, 4, 5, 6}));
  // What was verified once is not read again.
  damage(4);
  EXPECT_EQ(pruned(6, {.last = 2, .verified = {4}}), (std::set<i64>{4, 5, 6}));
}

TEST_F(CheckpointFolder, KeepsEveryMthAndTheBest) {
  for (i64 step = 1; step <= 12; ++step) publish(step);
  EXPECT_EQ(pruned(12, {.last = 2, .every = 4, .best = 6}), (std::set<i64>{4, 6, 8, 11, 12}));
}

TEST_F(CheckpointFolder, LeavesLaterStepsAlone) {
  for (const i64 step : {1, 2, 3, 9}) publish(step);
  damage(9);
  EXPECT_EQ(pruned(3, {.last = 2}), (std::set<i64>{2, 3, 9}));
}

TEST_F(CheckpointFolder, CleansUpAfterInterruptedSavesOnly) {
  publish(7);
  dir_.file("run/checkpoints/step-000008.tmp/model.h5", "half");
  dir_.file("run/checkpoints/latest.tmp", "st");
  dir_.file("run/checkpoints/mine.tmp", "not ours");
  dir_.file("run/checkpoints/step-last.tmp/a", "not ours");
  pruned(7, {});
  EXPECT_EQ(entries(),
            (std::set<std::string>{"latest", "step-000007", "mine.tmp", "step-last.tmp"}));
}

TEST_F(CheckpointFolder, DeletesNoTargetsOfLinks) {
  dir_.file("precious/a", "keep me");
  for (const i64 step : {5, 6, 7}) publish(step);
  fs::create_directory_symlink(dir_ / "precious", at(2));
  fs::create_directory_symlink(dir_ / "precious", run_ / "checkpoints/step-000003.tmp");
  fs::create_directory_symlink(dir_ / "precious", at(5) / "link");
  EXPECT_EQ(pruned(7, {.last = 2}), (std::set<i64>{6, 7}));
  EXPECT_EQ(entries(), (std::set<std::string>{"latest", "step-000006", "step-000007"}));
  EXPECT_EQ(bytes_of(dir_ / "precious/a"), "keep me");
}

}  // namespace
}  // namespace quern
