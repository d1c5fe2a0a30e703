// SPDX-License-Identifier: MIT
#include "quern/recipes/internal/open_model.h"

#include "quern/recipes/apply_adapter.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

fs::path find_tokenizer(const std::string& model) {
  fs::path folder = fs::absolute(model).lexically_normal();
  for (int up = 0; up < 4; ++up, folder = folder.parent_path()) {
    if (fs::exists(folder / "tokenizer.json")) return folder / "tokenizer.json";
  }
  throw ConfigError(
      {.file = model, .what = "no tokenizer.json beside it", .hint = "name one with --tokenizer"});
}

}  // namespace

ModelFile open_model(const std::string& path) {
  ModelFile file = find_model_file(path);
  warn_of_skipped(file.skipped);
  return file;
}

Model load_model(const ModelFile& file, const CheckpointInfo& info, DType dtype,
                 const std::vector<std::string>& adapters) {
  Model model(info.model, dtype);
  load_weights(file, model);
  apply_adapters(adapters, info.context.tokenizer_sha256, model);
  return model;
}

Recipe recipe_of(const CheckpointInfo& info, const std::string& path) {
  return parse_recipe(info.context.recipe, path + ": recipe");
}

Tokenizer load_tokenizer(const std::string& path, const std::string& model,
                         const CheckpointInfo& info) {
  const std::string file = path.empty() ? find_tokenizer(model).string() : path;
  Tokenizer tokenizer = Tokenizer::load(file);
  if (tokenizer.hash() != info.context.tokenizer_sha256) {
    throw DataError({.file = file,
                     .what = "not the tokenizer that the model was trained with",
                     .hint = "leave --tokenizer out to use the run's own"});
  }
  return tokenizer;
}

}  // namespace quern
