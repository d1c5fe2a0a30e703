// SPDX-License-Identifier: MIT
// Checkpoints: who stores what, under which name. A checkpoint is a folder step-000400 with
//   model.h5      every parameter under its Hugging Face name, experts by global id
//   optimizer.h5  the moments, as m/<name> and v/<name>
//   MANIFEST      the hashes of all files, checked before one is opened
// and root attributes that say where the run was. Of several ranks each writes a shard of both,
// model-00001-of-00004.h5 and optimizer-00001-of-00004.h5, and the first two are indexes: they have
// the attributes, and every tensor as a virtual dataset that shows the one in its shard. The root
// attribute `shards` names these. How such folders are published, found and
// deleted is in checkpoint_folder.h.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "quern/layers/model.h"
#include "quern/optim/adamw.h"
#include "quern/recipes/checkpoint_folder.h"
#include "quern/recipes/state_layout.h"

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

// Durable and read back when it returns. Throws IoError; earlier checkpoints are then untouched. A
// call of all ranks, which see `run` on the same disk, and throw together.
void save_checkpoint(const std::filesystem::path& run, Model& model, const AdamW& optimizer,
                     const Progress& progress, const CheckpointContext& context,
                     const StateLayout& layout = {});

// Fills model and optimizer. Throws CheckpointError that names file and tensor where anything is
// damaged, missing, surplus or of another shape. Each rank reads what it has, whichever ranks wrote
// it.
Progress load_checkpoint(const std::filesystem::path& checkpoint, Model& model, AdamW& optimizer,
                         const StateLayout& layout = {});

// A model.h5 whose checkpoint was found whole, and the newer ones of the run that were not.
struct ModelFile {
  std::filesystem::path path;
  std::vector<SkippedCheckpoint> skipped;
};

// What `path` stands for: a checkpoint, a run (its newest whole checkpoint) or a model.h5 that has
// its MANIFEST, and its shards, beside it. Throws ConfigError when there is none, CheckpointError
// when it is damaged.
ModelFile find_model_file(const std::filesystem::path& path);

// The weights alone; updates of low rank are merged into them, with one rounding.
void load_weights(const ModelFile& file, Model& model);
CheckpointInfo read_checkpoint_info(const ModelFile& file);
inline void load_weights(const std::filesystem::path& path, Model& model) {
  load_weights(find_model_file(path), model);
}
inline CheckpointInfo read_checkpoint_info(const std::filesystem::path& path) {
  return read_checkpoint_info(find_model_file(path));
}

}  // namespace quern
