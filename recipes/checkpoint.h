// SPDX-License-Identifier: MIT
// Checkpoints: who stores what, under which name. A checkpoint is a folder step-000400 with
//   model.h5      every parameter under its Hugging Face name, experts by global id
//   optimizer.h5  the moments, as m/<name> and v/<name>
//   MANIFEST      the hashes of both, checked before either is opened
// and root attributes that say where the run was. How such folders are published, found and
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

class Hdf5Writer;

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

// All that a checkpoint stores. With `copied` it stays as it is while training goes on. Of several
// ranks the first one has it; making it is a call of all.
class CheckpointSnapshot {
 public:
  CheckpointSnapshot(Model& model, const AdamW& optimizer, const Progress& progress,
                     const CheckpointContext& context, const StateLayout& layout, bool copied);

  // As save_checkpoint() does; from any thread.
  void write(const std::filesystem::path& run) const;

 private:
  template <class F>
  void for_each_weight(F&& f) const;
  template <class F>
  void for_each_moment(F&& f) const;
  void describe(Hdf5Writer& file) const;
  void write_weights(const std::filesystem::path& path) const;
  void write_moments(const std::filesystem::path& path) const;
  void compare_files(const std::filesystem::path& folder) const;
  i64 bytes_needed() const;

  std::vector<StateEntry> parameters_;                   // of all ranks
  std::vector<std::pair<std::string, Tensor>> buffers_;  // biases of routers
  std::string config_json_;
  i64 optimizer_steps_ = 0;
  Progress progress_;
  CheckpointContext context_;
};

// Durable and read back when it returns. Throws IoError; earlier checkpoints are then untouched. Of
// several ranks the first one writes.
void save_checkpoint(const std::filesystem::path& run, Model& model, const AdamW& optimizer,
                     const Progress& progress, const CheckpointContext& context,
                     const StateLayout& layout = {});

// Fills model and optimizer. Throws CheckpointError that names file and tensor where anything is
// damaged, missing, surplus or of another shape.
// Each rank reads what it has.
Progress load_checkpoint(const std::filesystem::path& checkpoint, Model& model, AdamW& optimizer,
                         const StateLayout& layout = {});

// A model.h5 whose checkpoint was found whole, and the newer ones of the run that were not.
struct ModelFile {
  std::filesystem::path path;
  std::vector<SkippedCheckpoint> skipped;
};

// What `path` stands for: a checkpoint, a run (its newest whole checkpoint) or a model.h5 that has
// its MANIFEST beside it. Throws ConfigError when there is none, CheckpointError when it is
// damaged.
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
