// SPDX-License-Identifier: MIT
// Checkpoints of several ranks: each writes a shard, and any other ranks read them.
#include <algorithm>
#include <fstream>

#include "quern/data/manifest.h"
#include "quern/recipes/checkpoint.h"
#include "quern/recipes/run.h"
#include "quern/recipes/trainer.h"
#include "tests/recipes/layouts_fixture.h"
#include "tests/support/file_size_limit.h"

namespace quern {
namespace {

namespace fs = std::filesystem;
using testing::count_events;
using testing::expect_same_tensors;
using testing::FileSizeLimit;
using testing::world;

struct Way {
  int ranks = 1;
  i64 ep_size = 1;
  bool shard_optimizer = false;
};

class Shards : public testing::Layouts {
 protected:
  // What `way` makes of a checkpoint of step 3 in `from`: loaded by its ranks, saved in `to`, and
  // the step that comes next.
  StepReport pass(const Way& way, const fs::path& from, const fs::path& to) {
    const bool takes_part = world().rank() < way.ranks;
    const Communicator ranks = world().split(takes_part);
    if (!takes_part) return {};
    recipe_.distributed = {.ep_size = way.ep_size, .shard_optimizer = way.shard_optimizer};
    Trainer trainer(recipe_, make_sampler(recipe_), {}, ParallelGroups(ranks, way.ep_size));
    trainer.restore(checkpoint_path(from, 3));
    save_checkpoint(to, trainer.model(), trainer.optimizer(), trainer.progress(), {},
                    trainer.layout());
    return trainer.step(trainer.batch_of(3));
  }
  // Three steps on one rank, saved by it; and the next one.
  StepReport begin(const fs::path& run) {
    Trainer alone(recipe_, make_sampler(recipe_));
    for (int step = 0; step < 3; ++step) alone.step(alone.batch_of(step));
    if (world().rank() == 0) {
      save_checkpoint(run, alone.model(), alone.optimizer(), alone.progress(), {});
    }
    world().barrier();
    return alone.step(alone.batch_of(3));
  }
  // Saved by all.
  fs::path saved_by_all() {
    begin(shared_ / "one");
    pass({world().size(), 1, false}, shared_ / "one", shared_ / "all");
    return checkpoint_path(shared_ / "all", 3);
  }
  // Why `checkpoint` cannot be loaded by one rank.
  ErrorFacts failure(const fs::path& checkpoint) {
    Trainer fresh(recipe_, make_sampler(recipe_));
    try {
      fresh.restore(checkpoint);
    } catch (const CheckpointError& error) {
      EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
      return error.facts();
    }
    ADD_FAILURE() << "nothing thrown";
    return {};
  }
  static std::string shard(const std::string& kind, int rank) {
    return kind + "-0000" + std::to_string(rank + 1) + "-of-0000" + std::to_string(world().size()) +
           ".h5";
  }
};

TEST_F(Shards, ARoundTripOverLayoutsChangesNothing) {
  recipe_.optim.moments_dtype = world().size() == 2 ? "bf16" : "fp32";
  const StepReport next = begin(shared_ / "one");
  fs::path from = shared_ / "one";
  int passes = 0;
  for (const Way& way : {Way{2, 1, false}, Way{4, 2, true}, Way{4, 1, true}, Way{4, 4, false},
                         Way{2, 2, true}, Way{1, 1, false}}) {
    if (way.ranks > world().size()) continue;
    const fs::path to = shared_ / ("pass_" + std::to_string(++passes));
    const StepReport report = pass(way, from, to);
    if (world().rank() < way.ranks) {
      EXPECT_EQ(report.loss, next.loss);
      EXPECT_EQ(report.grad_norm, next.grad_norm);
    }
    world().barrier();
    if (world().rank() == 0) {
      expect_same_tensors(checkpoint_path(shared_ / "one", 3), checkpoint_path(to, 3));
    }
    from = to;
  }
  if (world().rank() == 0) {  // the last one is of one rank again
    testing::expect_same_checkpoint(checkpoint_path(shared_ / "one", 3), checkpoint_path(from, 3));
  }
}

TEST_F(Shards, EachTensorIsWrittenByOneRankThatHasIt) {
  for (i64 ep = 1; ep <= world().size(); ep *= 2) {
    for (const bool shard_optimizer : {false, true}) {
      recipe_.distributed = {.ep_size = ep, .shard_optimizer = shard_optimizer};
      Trainer trainer(recipe_, make_sampler(recipe_), {}, ParallelGroups(world(), ep));
      RunState state = state_of(trainer.model(), trainer.optimizer(), trainer.layout());
      std::vector<StateTensor> all = state.weights;
      all.insert(all.end(), state.moments.begin(), state.moments.end());
      EXPECT_EQ(state.moments.size(), 2 * state.weights.size());
      std::vector<i64> bytes(static_cast<size_t>(world().size()), 0);
      i64 largest = 0;
      for (const StateTensor& t : all) {
        EXPECT_EQ(t.here.defined(), t.writer == world().rank()) << t.name;
        EXPECT_FALSE(t.here.defined() && t.here.shape() != t.shape) << t.name;
        bytes.at(size_t(t.writer)) += t.bytes();
        largest = std::max(largest, t.bytes());
      }
      const auto [least, most] = std::ranges::minmax(bytes);
      EXPECT_LE(most - least, 2 * largest) << "ep_size " << ep;
    }
  }
}

TEST_F(Shards, OneThatIsMissingOrChangedIsNamed) {
  const fs::path checkpoint = saved_by_all();
  world().barrier();
  if (world().rank() != 0) return;
  const std::string last = shard("model", world().size() - 1), moments = shard("optimizer", 0);
  for (const std::string& name : {last, moments}) {
    fs::rename(checkpoint / name, checkpoint / "aside");
    EXPECT_EQ(failure(checkpoint).file, checkpoint / name);
    fs::copy_file(checkpoint / shard("model", 0), checkpoint / name);
    EXPECT_EQ(failure(checkpoint).file, checkpoint / name);
    if (name == last) {
      EXPECT_THROW(find_model_file(checkpoint / "model.h5"), CheckpointError);
    }
    fs::rename(checkpoint / "aside", checkpoint / name);
  }
  // Named alone, a model.h5 needs its shards, and no others.
  fs::remove(checkpoint / moments);
  EXPECT_EQ(read_checkpoint_info(checkpoint / "model.h5").progress.step, 3);
  // A shard alone is no checkpoint, and one that nothing vouches for is not read.
  EXPECT_THROW(read_checkpoint_info(checkpoint / last), ConfigError);
  std::vector<std::string> listed;
  for (const auto& entry : fs::directory_iterator(checkpoint)) {
    const std::string name = entry.path().filename();
    if (name != last && name != kManifestName) listed.push_back(name);
  }
  write_manifest(checkpoint, hash_files(checkpoint, listed));
  EXPECT_EQ(failure(checkpoint).file, checkpoint / last);
}

// While steps [from, to) are taken, the disk of the last rank is full.
class FullDisk {
 public:
  FullDisk(i64 from, i64 to) : from_(from), to_(to) {}
  StepHooks hooks() {
    return {[this](i64 first_sample, i64) {
      const i64 done = first_sample / 16;
      const bool full = done >= from_ && done < to_ && world().rank() == world().size() - 1;
      if (full && !limit_) limit_.emplace(2000);
      if (!full) limit_.reset();
      return TapeWatch();
    }};
  }

 private:
  i64 from_, to_;
  std::optional<FileSizeLimit> limit_;
};

class FullDisks : public Shards {
 protected:
  void SetUp() override {
    Shards::SetUp();
    recipe_.train.steps = 16;
    recipe_.train.checkpoint_every = 4;
    recipe_.train.keep_checkpoints = 10;
    recipe_.train.eval_every = recipe_.train.sample_every = 0;
  }
};

TEST_F(FullDisks, ASaveThatFailsOnOneRankHaltsAll) {
  FullDisk disk(4, 8);
  const fs::path run = shared_ / "run";
  try {
    train_run(recipe_, run, disk.hooks(), world());
    FAIL() << "not thrown";
  } catch (const IoError& error) {  // the same on all ranks
    EXPECT_NE(error.facts().file.find(shard("model", world().size() - 1)), std::string::npos)
        << error.what();
    EXPECT_EQ(error.facts().hint, "step 4 is saved");
  }
  world().barrier();
  EXPECT_EQ(list_checkpoints(run), std::vector{checkpoint_path(run, 4)});
  EXPECT_FALSE(fs::exists(pending_path(run, 8)));
}

// The files of step 4 are written until step 8, those of step 8 before or after the disk has room.
TEST_F(FullDisks, InTheBackgroundOneWarningIsGivenAndTrainingGoesOn) {
  const fs::path whole = shared_ / "whole", run = shared_ / "run";
  ASSERT_EQ(train_run(recipe_, whole, {}, world()), ExitCode::kDone);
  recipe_.train.background_save = true;
  recipe_.train.on_save_error = "warn";
  FullDisk disk(0, 8);
  ASSERT_EQ(train_run(recipe_, run, disk.hooks(), world()), ExitCode::kDone);
  if (world().rank() != 0) return;
  const i64 failed = count_events(run, "save failed");
  EXPECT_TRUE(failed == 1 || failed == 2) << failed;
  EXPECT_FALSE(fs::exists(checkpoint_path(run, 4)));
  for (const i64 step : {12, 16}) {
    EXPECT_TRUE(is_whole(checkpoint_path(run, step))) << step;
    expect_same_tensors(checkpoint_path(whole, step), checkpoint_path(run, step));
  }
}

}  // namespace
}  // namespace quern
