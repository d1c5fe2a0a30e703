// SPDX-License-Identifier: MIT
// The shapes of published models, by name, as they are pretrained: before their context is
// extended by YaRN. `dense`, `hash`, `switch` and `gshard` are those that DeepSeekMoE
// (arXiv:2401.06066, table 1) compares itself with, at the size of deepseek-moe-2b.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "quern/layers/config.h"

namespace quern {

std::vector<std::string> preset_names();
// Nothing where no preset has this name.
std::optional<ModelConfig> find_preset(const std::string& name);

}  // namespace quern
