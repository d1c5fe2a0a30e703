// SPDX-License-Identifier: MIT
// How the files of a checkpoint say what they are, in attributes of their root.
#pragma once

#include "quern/autograd/kernels/types.h"

namespace quern {

inline constexpr const char* kCheckpointFormat = "quern_checkpoint";   // model.h5, optimizer.h5
inline constexpr const char* kShardFormat = "quern_checkpoint_shard";  // a rank's part of one
inline constexpr i64 kWholeVersion = 1;                                // has its tensors itself
inline constexpr i64 kIndexVersion = 2;                                // shows those of its shards

}  // namespace quern
