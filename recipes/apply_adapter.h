// SPDX-License-Identifier: MIT
// Adapters, read back: what export_adapter() writes, and what PEFT and ESFT have published.
#pragma once

#include <filesystem>
#include <span>
#include <string>

#include "quern/recipes/checkpoint.h"

namespace quern {

// Merges the adapters of these folders into a model: PEFT's updates with one rounding, ESFT's
// tensors as they are. Throws ConfigError for an adapter of another model or tokenizer, and where
// two change the same matrices, with a list of these; DataError for files that are malformed.
void apply_adapters(std::span<const std::string> folders, const std::string& tokenizer_sha256,
                    Model& model);

// The weights of a checkpoint, updates of low rank merged, with those of adapters, as step 0 of a
// new run folder, which has no optimizer moments. Throws as above, and as save_checkpoint() does.
void merge_adapters(const ModelFile& file, std::span<const std::string> folders,
                    const std::filesystem::path& out);

}  // namespace quern
