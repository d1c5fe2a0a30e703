// SPDX-License-Identifier: MIT
// What a run has trained, without the rest: small files that other programs read.
#pragma once

#include <filesystem>

#include "quern/recipes/checkpoint.h"

namespace quern {

// Of a run with method lora, PEFT's adapter_config.json and adapter_model.safetensors; with method
// experts, experts.json and model.safetensors, the trained tensors under their own names, as ESFT
// publishes them. Throws ConfigError for a run that trained everything.
void export_adapter(const ModelFile& file, const std::filesystem::path& out);

}  // namespace quern
