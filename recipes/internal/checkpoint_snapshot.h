// SPDX-License-Identifier: MIT
// What one rank puts into a checkpoint, and the files it makes of that.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "quern/recipes/checkpoint.h"
#include "quern/recipes/state_layout.h"

namespace quern {

class Hdf5Writer;

// With `copied` it stays as it is while training goes on. Its calls write from any thread, durably,
// and compare what they have written; they return the names of the files, and throw IoError, or
// DataError where a file cannot be read back.
class CheckpointSnapshot {
 public:
  CheckpointSnapshot(Model& model, const AdamW& optimizer, const Progress& progress,
                     const CheckpointContext& context, const StateLayout& layout, bool copied);

  i64 step() const { return progress_.step; }
  // Of the files of all ranks, at most.
  i64 bytes_needed() const;

  // Of one rank model.h5 and optimizer.h5; of several, this rank's shards of both.
  std::vector<std::string> write_part(const std::filesystem::path& folder) const;
  // Of several ranks: model.h5 and optimizer.h5, which show what all shards in the folder hold.
  std::vector<std::string> write_index(const std::filesystem::path& folder) const;

 private:
  void describe(Hdf5Writer& file, bool index) const;
  std::vector<std::string> shards_of(const std::string& kind) const;

  struct Kind {
    std::string name;  // "model"
    std::vector<StateTensor> tensors;
  };

  std::vector<Kind> kinds_;  // what stands in model.h5, and what in optimizer.h5
  int rank_, ranks_;
  std::string config_json_;
  i64 optimizer_steps_ = 0;
  Progress progress_;
  CheckpointContext context_;
};

}  // namespace quern
