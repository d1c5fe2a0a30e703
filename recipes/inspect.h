// SPDX-License-Identifier: MIT
// What `quern inspect` says of a path.
#pragma once

#include <string>

#include "quern/recipes/describe.h"

namespace quern {

// A recipe, a config.json, a preset's name, or what find_model_file() takes. sequence_length is for
// the FLOPs per token; 0: as in training. Throws ConfigError, CheckpointError.
Figures inspect(const std::string& path, i64 sequence_length);

}  // namespace quern
