// SPDX-License-Identifier: MIT
// The checks of a ModelConfig that are about its router.
#pragma once

#include "quern/layers/config.h"

namespace quern::internal {

// Throws ConfigError. The number of experts is at least 1, and that of a token's choices fits it.
void check_router(const ModelConfig& config);

}  // namespace quern::internal
