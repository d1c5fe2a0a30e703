// SPDX-License-Identifier: MIT
// Gets the checkpoints of a run to its disk, at once or behind its back, and deletes old ones.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include "quern/recipes/checkpoint_folder.h"
#include "quern/recipes/internal/checkpoint_save.h"
#include "quern/recipes/trainer.h"

namespace quern {

// What it asks of the run.
struct RunSaverCalls {
  // A checkpoint could not be written, and training goes on.
  std::function<void(i64 step, const std::string& what)> not_saved;
  // The saved step that stays whatever its age; asked of the first rank.
  std::function<std::optional<i64>()> best;
};

// All calls are calls of all ranks, and come to the same on each.
class RunSaver {
 public:
  RunSaver(std::filesystem::path run, const Recipe& recipe, std::string tokenizer_sha256,
           const Communicator& ranks, RunSaverCalls calls);

  // The run goes on from a checkpoint of this step.
  void stands_at(i64 step) { saved_step_ = taken_step_ = step; }

  // Looks after what is under way, prunes, and says whether this step is saved or on its way.
  bool has(i64 step);
  // What the log says up to here is made durable first, so that a checkpoint never knows more.
  // `must`: nothing comes afterwards that could save again. Throws IoError where that fails, or
  // where train.on_save_error is "halt".
  void save(Trainer& trainer, bool must);
  // Sees to a save in the background that is done; or waits until it is.
  void look();
  void wait() { finish(false); }

 private:
  void finish(bool must);
  void prune();

  std::filesystem::path run_;
  Recipe recipe_;
  std::string tokenizer_sha256_;
  Communicator ranks_;
  RunSaverCalls calls_;
  Retention retention_;
  i64 saved_step_ = -1;                      // is on the disk
  i64 taken_step_ = -1;                      // is on the disk, or on its way there
  std::optional<CheckpointSave> under_way_;  // of taken_step_
};

}  // namespace quern
