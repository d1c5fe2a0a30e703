// SPDX-License-Identifier: MIT
#include "quern/recipes/inspect.h"

#include <filesystem>

#include "quern/layers/presets.h"
#include "quern/recipes/checkpoint.h"
#include "quern/recipes/hf_config.h"
#include "quern/recipes/recipe.h"

namespace quern {
namespace {

Figures describe(const Recipe& recipe, i64 sequence_length) {
  return describe_model(recipe.model,
                        sequence_length > 0 ? sequence_length : recipe.data.sequence_length);
}

}  // namespace

Figures inspect(const std::string& path, i64 sequence_length) {
  const auto preset = find_preset(path);
  if (preset && !std::filesystem::exists(path)) {
    return describe_model(*preset, sequence_length > 0 ? sequence_length : 4096);
  }
  if (path.ends_with(".json")) {
    const HfConfig config = read_hf_config(path);
    Figures figures = describe_model(config.model, sequence_length > 0 ? sequence_length : 4096);
    for (const HfKey& key : config.unknown_keys) {
      figures.push_back(text_figure("unknown " + key.name, key.json));
    }
    return figures;
  }
  if (path.ends_with(".textproto")) return describe(load_recipe(path), sequence_length);
  const ModelFile file = find_model_file(path);
  warn_of_skipped(file.skipped);
  const CheckpointInfo info = read_checkpoint_info(file);
  Figures figures = {text_figure("checkpoint", file.path.string()),
                     count_figure("steps done", double(info.progress.step)),
                     count_figure("tokens seen", double(info.progress.tokens_seen))};
  const Recipe recipe = parse_recipe(info.context.recipe, path + ": recipe");
  for (Figure& f : describe(recipe, sequence_length)) figures.push_back(std::move(f));
  return figures;
}

}  // namespace quern
