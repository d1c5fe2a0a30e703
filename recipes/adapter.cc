// SPDX-License-Identifier: MIT
#include "quern/recipes/adapter.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "quern/autograd/error.h"
#include "quern/data/atomic_file.h"
#include "quern/data/hdf5_file.h"
#include "quern/data/safetensors.h"
#include "quern/recipes/expert_scores.h"
#include "quern/recipes/recipe.h"

namespace quern {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr std::string_view kA = ".lora_A.weight", kB = ".lora_B.weight";

// The modules by their whole names: PEFT takes a target for any module that ends like it.
ordered_json peft_config(const FinetuneRecipe& f, const std::set<std::string>& modules,
                         const std::string& base) {
  return {{"peft_type", "LORA"},
          {"task_type", "CAUSAL_LM"},
          {"base_model_name_or_path", base},
          {"r", f.lora_rank},
          {"lora_alpha", f.lora_alpha},
          {"lora_dropout", 0.0},
          {"target_modules", modules},
          {"bias", "none"},
          {"fan_in_fan_out", false},
          {"modules_to_save", nullptr},
          {"inference_mode", true}};
}

// Without the folders above it, which are this machine's.
std::string name_of_base(const Recipe& recipe) {
  const fs::path base = recipe.train.init_from;
  return (base.has_filename() ? base : base.parent_path()).filename().string();
}

// Which models these are of, as far as a tokenizer tells.
Texts origin(const Hdf5Reader& in) {
  return {{kAdapterTokenizer, in.attribute_text("/", "tokenizer_sha256")}};
}

void export_updates(const Hdf5Reader& in, const Recipe& recipe, const fs::path& out) {
  std::vector<NamedTensor> tensors;
  std::set<std::string> modules;
  for (const std::string& name : in.names()) {
    if (name.ends_with(kA)) modules.insert(name.substr(0, name.size() - kA.size()));
    if (name.ends_with(kA) || name.ends_with(kB)) {
      tensors.push_back({"base_model.model." + name, in.read(name)});
    }
  }
  write_safetensors(out / kPeftTensors, tensors, origin(in));
  const auto config = peft_config(recipe.finetune, modules, name_of_base(recipe));
  write_file_atomically(out / kPeftConfig,
                        config.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n");
}

// What has moments was trained. The model.h5 may have been named alone: then these are unchecked.
std::vector<std::string> trained_names(const fs::path& checkpoint) {
  const Hdf5Reader moments(find_model_file(checkpoint / "optimizer.h5").path);
  std::vector<std::string> names;
  for (const std::string& name : moments.names()) {
    if (name.starts_with("m/")) names.push_back(name.substr(2));
  }
  return names;
}

void export_experts(const Hdf5Reader& in, const fs::path& checkpoint, const fs::path& out) {
  std::vector<NamedTensor> tensors;
  ExpertSelection selection;
  for (const std::string& name : trained_names(checkpoint)) {
    tensors.push_back({name, in.read(name)});
    i64 layer = 0, expert = 0;
    if (parse_expert_name(name, layer, expert)) {
      std::vector<i64>& experts = selection.experts[layer];
      if (std::ranges::find(experts, expert) == experts.end()) experts.push_back(expert);
    } else if (name.find(".shared_experts.") != std::string::npos) {
      selection.shared_experts = true;
    } else {
      selection.non_expert_modules = true;
    }
  }
  for (auto& [layer, experts] : selection.experts) std::ranges::sort(experts);
  write_safetensors(out / kEsftTensors, tensors, origin(in));
  write_file_atomically(out / kEsftConfig, to_json(selection));
}

}  // namespace

void export_adapter(const ModelFile& file, const fs::path& out) {
  const CheckpointInfo info = read_checkpoint_info(file);
  const Recipe recipe = parse_recipe(info.context.recipe, file.path.string() + ": recipe");
  const std::string& method = recipe.finetune.method;
  if (method == "full") {
    throw ConfigError({.file = file.path.string(),
                       .what = "of a run that trained the whole model",
                       .expected = "finetune.method experts or lora",
                       .hint = "its model.h5 is all there is"});
  }
  const Hdf5Reader in(file.path);
  if (method == "lora") return export_updates(in, recipe, out);
  export_experts(in, file.path.parent_path(), out);
}

}  // namespace quern
