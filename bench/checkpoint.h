// SPDX-License-Identifier: MIT
// Saving and loading a checkpoint against a plain file of as many bytes.
#pragma once

#include <filesystem>
#include <vector>

#include "quern/autograd/tensor.h"
#include "quern/layers/config.h"

namespace quern::bench {

struct CheckpointTimes {
  i64 bytes = 0;                                // of the checkpoint's files
  std::vector<double> save, write, load, read;  // seconds of each round
};

// In a new folder below `where`, which is removed: each round saves, writes and syncs a plain file,
// loads, and reads the plain file, both from the disk as far as the system can be asked for that.
// Throws Error when what is loaded is not what was saved.
CheckpointTimes time_checkpoint(const ModelConfig& config, DType dtype, bool bf16_moments,
                                const std::filesystem::path& where, int rounds);

}  // namespace quern::bench
