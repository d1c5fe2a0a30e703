// SPDX-License-Identifier: MIT
// What a run has trained, without the rest: small files that other programs read.
#pragma once

#include <filesystem>

#include "quern/recipes/checkpoint.h"

namespace quern {

// The files of an adapter, as PEFT and ESFT name them.
inline constexpr char kPeftConfig[] = "adapter_config.json";
inline constexpr char kPeftTensors[] = "adapter_model.safetensors";
inline constexpr char kEsftConfig[] = "experts.json";
inline constexpr char kEsftTensors[] = "model.safetensors";
// A text in the header of the tensors: the hash of the tokenizer of the model they are for.
inline constexpr char kAdapterTokenizer[] = "tokenizer_sha256";

// Of a run with method lora, PEFT's adapter_config.json and adapter_model.safetensors; with method
// experts, experts.json and model.safetensors, the trained tensors under their own names, as ESFT
// publishes them. Throws ConfigError for a run that trained everything.
void export_adapter(const ModelFile& file, const std::filesystem::path& out);

}  // namespace quern
