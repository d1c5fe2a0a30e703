// SPDX-License-Identifier: MIT
// The models that quern_bench and its PyTorch peer both train, by name.
#pragma once

#include <string>
#include <vector>

#include "quern/layers/config.h"

namespace quern::bench {

// tiny, small, tiny_dense, small_dense, gran1, gran2, gran4, gran8, gran_dense: the shapes of
// PRESETS in peers/torch_moe_train.py. Every layer is MoE, or every layer dense.
// Throws ConfigError on another name.
ModelConfig preset(const std::string& name);

std::vector<std::string> preset_names();

}  // namespace quern::bench
