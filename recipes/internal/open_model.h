// SPDX-License-Identifier: MIT
// What commands do before a model can be looked at.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "quern/data/tokenizer.h"
#include "quern/recipes/checkpoint.h"
#include "quern/recipes/recipe.h"

namespace quern {

// find_model_file(), and warnings of newer checkpoints that were not whole.
ModelFile open_model(const std::string& path);
// With adapters merged into it, as apply_adapters() does.
Model load_model(const ModelFile& file, const CheckpointInfo& info, DType dtype = DType::f32,
                 const std::vector<std::string>& adapters = {});
// The recipe of the run; `path` names it in errors.
Recipe recipe_of(const CheckpointInfo& info, const std::string& path);
// That of `path`, or where it is empty the one in the run's folder, whichever of its parts `model`
// names. Throws DataError when the model was trained with another one.
Tokenizer load_tokenizer(const std::string& path, const std::string& model,
                         const CheckpointInfo& info);

}  // namespace quern
