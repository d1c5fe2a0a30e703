// SPDX-License-Identifier: MIT
// Checkpoints: who stores what, under which name. A checkpoint is a folder step-000400 with
//   model.h5      every parameter under its Hugging Face name, experts by global id
//   optimizer.h5  the moments, as m/<name> and v/<name>
//   MANIFEST      the hashes of both, checked before either is opened
// and root attributes that say where the run was. Written beside, synced, renamed: a folder with
// this name is whole.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "quern/layers/model.h"
#include "quern/optim/adamw.h"

namespace quern {

// Where a run stands. Data order and random numbers depend on the seed and the step alone, so
// nothing else is needed to go on.
struct Progress {
  i64 step = 0;  // steps done
  i64 tokens_seen = 0;
  i64 next_sample = 0;      // global number of the next sequence
  std::string guard_state;  // of the numerical guard, see NumericalGuard::state()
};

// What names the run in every checkpoint.
struct CheckpointContext {
  std::string recipe;            // the resolved recipe
  std::string tokenizer_sha256;  // of the run's tokenizer
};

// What a checkpoint says of itself.
struct CheckpointInfo {
  ModelConfig model;
  Progress progress;
  CheckpointContext context;
};

std::filesystem::path checkpoint_path(const std::filesystem::path& run, i64 step);
// The checkpoints of a run, by step, oldest first.
std::vector<std::filesystem::path> list_checkpoints(const std::filesystem::path& run);

// Throws IoError; earlier checkpoints are then untouched.
void save_checkpoint(const std::filesystem::path& run, Model& model, const AdamW& optimizer,
                     const Progress& progress, const CheckpointContext& context);
// Deletes all but the newest `keep`, and what an interrupted save has left.
void prune_checkpoints(const std::filesystem::path& run, i64 keep);

// Fills model and optimizer. Throws CheckpointError that names file and tensor where anything is
// missing, surplus or of another shape.
Progress load_checkpoint(const std::filesystem::path& checkpoint, Model& model, AdamW& optimizer);

// The weights alone. `path` is a checkpoint, a run (its newest checkpoint) or a model.h5.
void load_weights(const std::filesystem::path& path, Model& model);
CheckpointInfo read_checkpoint_info(const std::filesystem::path& path);
// The model.h5 that `path` stands for. Throws ConfigError when there is none.
std::filesystem::path find_model_file(const std::filesystem::path& path);

}  // namespace quern
