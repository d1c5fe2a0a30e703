// SPDX-License-Identifier: MIT
#include "quern/recipes/apply_adapter.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "quern/autograd/error.h"
#include "quern/autograd/nearest_name.h"
#include "quern/data/atomic_file.h"
#include "quern/data/internal/bounded_json.h"
#include "quern/data/internal/json_checks.h"
#include "quern/data/safetensors.h"
#include "quern/layers/low_rank.h"
#include "quern/recipes/adapter.h"
#include "quern/recipes/expert_scores.h"
#include "quern/recipes/internal/fresh_folder.h"
#include "quern/recipes/recipe.h"

namespace quern {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::string_view kPrefix = "base_model.model.", kA = ".lora_A.weight",
                           kB = ".lora_B.weight";
constexpr i64 kMaxConfig = 16 << 20;

// The matrices of a model by name, and which adapter has changed them.
class Merger {
 public:
  explicit Merger(Model& model) {
    model.visit([this](Parameter& p) {
      if (!is_low_rank(p)) parameters_[p.name] = &p;
    });
  }

  void replace(const fs::path& folder, const NamedTensor& tensor) {
    Parameter& p = find(folder, tensor.name);
    if (tensor.value.shape() != p.value.shape()) refuse_shape(folder, tensor.name, p, tensor.value);
    if (take(folder, p)) p.value.copy_from(tensor.value.cast(p.value.dtype()));
  }

  void add(const fs::path& folder, const std::string& module, const Tensor& a, const Tensor& b,
           double scale) {
    Parameter& p = find(folder, module + ".weight");
    const bool fit = p.value.shape().rank() == 2 && a.shape().rank() == 2 &&
                     b.shape().rank() == 2 && a.dim(0) == b.dim(1) && a.dim(1) == p.value.dim(1) &&
                     b.dim(0) == p.value.dim(0);
    if (!fit) refuse_shape(folder, module + std::string(kA), p, a);
    const DType type = p.value.dtype();
    if (take(folder, p)) add_low_rank(p.value, a.cast(type), b.cast(type), scale);
  }

  // Throws ConfigError where two adapters have wanted the same matrices.
  void settle() const {
    if (conflicts_.empty()) return;
    std::string list;
    for (const auto& [layer, experts] : conflicts_) {
      list += (list.empty() ? "" : "; ") + layer;
      for (size_t i = 0; i < experts.size() && i < 16; ++i) {
        list += (i == 0 ? " " : ", ") + experts[i];
      }
      if (experts.size() > 16) list += ", ...";
    }
    throw ConfigError({.file = second_,
                       .what = "changes what " + first_ + " changes: " + list,
                       .expected = "adapters without a matrix in common",
                       .hint = "merge one of them, or train from the merged model"});
  }

 private:
  Parameter& find(const fs::path& folder, const std::string& name) const {
    const auto found = parameters_.find(name);
    if (found != parameters_.end()) return *found->second;
    std::vector<std::string> names;
    for (const auto& [known, p] : parameters_) names.push_back(known);
    const std::string near = nearest_name(name, names);
    throw ConfigError({.file = folder.string(),
                       .key = clipped(name),
                       .what = "the model has no such matrix: an adapter of another model",
                       .hint = near.empty() ? "" : "the nearest name is " + near});
  }

  [[noreturn]] static void refuse_shape(const fs::path& folder, const std::string& name,
                                        const Parameter& p, const Tensor& actual) {
    throw ConfigError({.file = folder.string(),
                       .key = clipped(name),
                       .what = "an adapter of another model",
                       .expected = "for a matrix " + p.value.shape().str(),
                       .actual = actual.shape().str()});
  }

  // Whether the matrix is free; else it is written down.
  bool take(const fs::path& folder, const Parameter& p) {
    const auto [owner, is_free] = owners_.emplace(p.name, folder.string());
    if (is_free) return true;
    if (conflicts_.empty()) {
      first_ = owner->second;
      second_ = folder.string();
    }
    i64 layer = 0, expert = 0;
    if (!parse_expert_name(p.name, layer, expert)) {
      conflicts_[p.name];
      return false;
    }
    std::vector<std::string>& experts = conflicts_["layer " + std::to_string(layer) + ": experts"];
    const std::string number = std::to_string(expert);
    if (std::ranges::find(experts, number) == experts.end()) experts.push_back(number);
    return false;
  }

  std::map<std::string, Parameter*> parameters_;
  std::map<std::string, std::string> owners_;
  std::map<std::string, std::vector<std::string>> conflicts_;
  std::string first_, second_;
};

void check_origin(const fs::path& folder, const SafetensorsFile& file,
                  const std::string& tokenizer_sha256) {
  const auto found = file.texts.find(kAdapterTokenizer);
  if (found == file.texts.end() || found->second == tokenizer_sha256) return;
  throw ConfigError({.file = folder.string(),
                     .what = "an adapter of a model with another tokenizer",
                     .expected = "tokenizer " + tokenizer_sha256.substr(0, 12),
                     .actual = clipped(found->second.substr(0, 12))});
}

double number(const JsonChecks& checks, const json& config, const char* key) {
  const json& value = checks.member(config, "", key);
  if (value.is_number() && value.get<double>() > 0 && std::isfinite(value.get<double>())) {
    return value.get<double>();
  }
  checks.refuse(key, "a number above 0", value);
}

// lora_alpha / r. What would make it another sum is refused.
double scale_of(const fs::path& folder) {
  const std::string file = (folder / kPeftConfig).string();
  const JsonChecks checks{file};
  const json config = parse_bounded_json(read_file(file, kMaxConfig), file);
  if (!config.is_object()) checks.refuse("adapter", "an object", config);
  checks.expect(config, "", "peft_type", {"LORA"}, false);
  checks.expect(config, "", "bias", {"none"}, true);
  for (const char* key : {"use_dora", "use_rslora", "fan_in_fan_out"}) {
    checks.expect(config, "", key, {json(), false}, true);
  }
  for (const char* key : {"rank_pattern", "alpha_pattern"}) {
    checks.expect(config, "", key, {json(), json::object()}, true);
  }
  return number(checks, config, "lora_alpha") / number(checks, config, "r");
}

void apply_updates(const fs::path& folder, const std::string& tokenizer, Merger& merger) {
  const double scale = scale_of(folder);
  const fs::path path = folder / kPeftTensors;
  const SafetensorsFile file = read_safetensors(path);
  check_origin(folder, file, tokenizer);
  std::map<std::string, std::array<Tensor, 2>> pairs;
  for (const NamedTensor& t : file.tensors) {
    const bool a = t.name.ends_with(kA);
    if (!t.name.starts_with(kPrefix) || (!a && !t.name.ends_with(kB))) {
      throw DataError({.file = path.string(),
                       .key = clipped(t.name),
                       .expected = "base_model.model.<module>.lora_A.weight or lora_B.weight"});
    }
    const size_t length = t.name.size() - kPrefix.size() - kA.size();
    pairs[t.name.substr(kPrefix.size(), length)][a ? 0 : 1] = t.value;
  }
  for (const auto& [module, pair] : pairs) {
    if (!pair[0].defined() || !pair[1].defined()) {
      throw DataError({.file = path.string(),
                       .key = clipped(module),
                       .what = pair[0].defined() ? "has no lora_B" : "has no lora_A"});
    }
    merger.add(folder, module, pair[0], pair[1], scale);
  }
}

void apply_experts(const fs::path& folder, const std::string& tokenizer, Merger& merger) {
  read_expert_selection(folder / kEsftConfig);
  const SafetensorsFile file = read_safetensors(folder / kEsftTensors);
  check_origin(folder, file, tokenizer);
  for (const NamedTensor& t : file.tensors) merger.replace(folder, t);
}

void apply(const fs::path& folder, const std::string& tokenizer, Merger& merger) {
  constexpr char kOrigin[] = "`quern inspect` shows what the model is";
  try {
    if (fs::exists(folder / kPeftConfig)) return apply_updates(folder, tokenizer, merger);
    if (fs::exists(folder / kEsftConfig)) return apply_experts(folder, tokenizer, merger);
  } catch (const ConfigError& error) {
    throw ConfigError(with_hint(error.facts(), kOrigin));
  } catch (const DataError& error) {
    throw DataError(with_hint(error.facts(), "`quern export-adapter` and PEFT write adapters"));
  }
  throw ConfigError({.file = folder.string(),
                     .what = "no adapter",
                     .expected = "a folder with " + std::string(kPeftConfig) + " or " + kEsftConfig,
                     .hint = "`quern export-adapter` makes them"});
}

}  // namespace

void apply_adapters(std::span<const std::string> folders, const std::string& tokenizer_sha256,
                    Model& model) {
  if (folders.empty()) return;
  Merger merger(model);
  for (const std::string& folder : folders) apply(folder, tokenizer_sha256, merger);
  merger.settle();
  model.round_images();
}

void merge_adapters(const ModelFile& file, std::span<const std::string> folders,
                    const fs::path& out) {
  const CheckpointInfo info = read_checkpoint_info(file);
  Recipe recipe = parse_recipe(info.context.recipe, file.path.string() + ": recipe");
  recipe.finetune = {};
  if (newest_checkpoint(out)) {
    throw ConfigError(
        {.file = out.string(), .what = "has checkpoints already", .hint = "name a new folder"});
  }
  Model model(info.model);
  load_weights(file, model);
  apply_adapters(folders, info.context.tokenizer_sha256, model);
  FreshFolder folder(out);
  const AdamW none({}, {}, [](const Parameter&) { return false; });
  save_checkpoint(out, model, none, {}, {to_text(recipe), info.context.tokenizer_sha256});
  folder.keep();
}

}  // namespace quern
