// SPDX-License-Identifier: MIT
#include "quern/recipes/checkpoint.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <set>
#include <string_view>

#include "quern/data/file_errors.h"
#include "quern/data/hdf5_file.h"
#include "quern/data/manifest.h"
#include "quern/recipes/hf_config.h"
#include "quern/recipes/internal/checkpoint_format.h"
#include "quern/recipes/internal/checkpoint_save.h"
#include "quern/recipes/recipe.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

constexpr const char* kRemedy = "use another step of the run, or copy this one again";
const std::vector<std::string> kFiles = {"model.h5", "optimizer.h5"};

[[noreturn]] void refuse_no_checkpoint(const fs::path& path) {
  throw ConfigError({.file = path.string(),
                     .what = "is not a checkpoint",
                     .hint = "give a run folder, a step folder or its model.h5"});
}

bool begins_like_hdf5(const fs::path& path) {
  char first[4] = {};
  std::ifstream(path, std::ios::binary).read(first, sizeof first);
  return std::string_view(first, sizeof first) == "\x89HDF";
}

bool is_listed(const fs::path& file) {
  return has_manifest(file.parent_path()) &&
         read_manifest(file.parent_path()).find(file.filename().string()) != nullptr;
}

// One file that a user named. What is not HDF5 was never a checkpoint, unless the MANIFEST beside
// it lists it: then its bytes have changed.
void verify_single(const fs::path& path) {
  const bool foreign = !begins_like_hdf5(path);
  if (foreign && !is_listed(path)) refuse_no_checkpoint(path);
  if (!has_manifest(path.parent_path())) {
    throw CheckpointError(
        {.file = path.string(),
         .what = std::string("has no ") + kManifestName + " beside it, so it cannot be checked"});
  }
  const Manifest manifest = read_manifest(path.parent_path());
  verify_file(manifest, path);
  if (foreign) refuse_no_checkpoint(path);
  for (const std::string& shard : Hdf5Reader(path).shards()) {
    verify_file(manifest, path.parent_path() / shard);
  }
}

// Only for files whose hash, like that of their shards, was found to be the one written down when
// they were saved: damaged bytes can crash libhdf5.
Hdf5Reader open_verified(const fs::path& path) {
  Hdf5Reader file(path);
  if (!file.has_attribute("/", "format") ||
      file.attribute_text("/", "format") != kCheckpointFormat) {
    refuse_no_checkpoint(path);
  }
  const i64 version = file.attribute_i64("/", "version");
  if (version != kWholeVersion && version != kIndexVersion) {
    throw ConfigError({.file = path.string(),
                       .what = "checkpoint of an unknown version",
                       .expected = "at most " + std::to_string(kIndexVersion),
                       .actual = std::to_string(version),
                       .hint = "use the quern that wrote it"});
  }
  for (const std::string& shard : file.shards()) {
    const fs::path beside = path.parent_path() / shard;
    if (!is_listed(beside)) {
      throw CheckpointError(
          {.file = beside.string(),
           .what = "is not listed in the " + std::string(kManifestName) + " beside it"});
    }
  }
  return file;
}

void read_into(const Hdf5Reader& file, const std::string& name, const Tensor& target) {
  const std::string path = file.path().string();
  if (!file.has(name)) throw CheckpointError({.file = path, .key = name, .what = "missing"});
  const Tensor stored = file.read(name);
  if (stored.shape() != target.shape() || stored.dtype() != target.dtype()) {
    throw CheckpointError(
        {.file = path, .key = name, .expected = target.str(), .actual = stored.str()});
  }
  target.copy_from(stored);
}

// "model.layers.61.enorm.weight": of a module of multi-token prediction.
bool is_nextn(const std::string& name, i64 num_hidden_layers) {
  constexpr std::string_view kLayers = "model.layers.";
  return name.starts_with(kLayers) &&
         std::strtoll(name.c_str() + kLayers.size(), nullptr, 10) >= num_hidden_layers;
}

void refuse_surplus(const Hdf5Reader& file, const std::set<std::string>& known) {
  for (const std::string& name : file.names()) {
    if (!known.contains(name)) {
      throw CheckpointError({.file = file.path().string(),
                             .key = name,
                             .what = "a tensor that the model does not have"});
    }
  }
}

// The update that a file holds for a matrix, added to it.
void merge_update(const Hdf5Reader& file, const Parameter& p, double scale,
                  std::set<std::string>& known) {
  const LowRank names(p, 1, scale);
  if (!file.has(names.a.name) || !file.has(names.b.name)) return;
  const Tensor a = file.read(names.a.name), b = file.read(names.b.name);
  const bool fit = a.shape().rank() == 2 && b.shape().rank() == 2 && a.dim(0) == b.dim(1) &&
                   a.dim(1) == p.value.dim(1) && b.dim(0) == p.value.dim(0) &&
                   a.dtype() == p.value.dtype() && b.dtype() == p.value.dtype();
  if (!fit) {
    throw CheckpointError({.file = file.path().string(),
                           .key = names.a.name,
                           .expected = "an update of " + p.value.str(),
                           .actual = a.str() + " and " + b.str()});
  }
  add_low_rank(p.value, a, b, scale);
  known.insert({names.a.name, names.b.name});
}

// Of the parameters that ranks have, this one or others.
std::set<std::string> known_names(Model& model) {
  std::vector<Parameter*> here;
  model.visit([&](Parameter& p) { here.push_back(&p); });
  const auto names = all_names(here, model.ep);
  return {names.begin(), names.end()};
}

// For a model that goes its own way from there: updates of low rank in the file are merged, and the
// model's own stay as they are.
void read_merged_weights(const Hdf5Reader& file, Model& model) {
  std::set<std::string> known = known_names(model);
  model.visit_tensors([&](const std::string& name, const Tensor& value) {
    if (name.ends_with(".lora_A.weight") || name.ends_with(".lora_B.weight")) return;
    read_into(file, name, value);
    known.insert(name);
  });
  const auto names = file.names();
  if (model.nextn.empty()) {  // nothing but training needs them: they may stay behind
    const i64 layers = model.config.num_hidden_layers;
    const i64 stored =
        parse_hf_config(file.attribute_text("/", "config_json"), file.path().string())
            .model.num_hidden_layers;
    for (const std::string& name : names) {
      if (stored == layers && is_nextn(name, layers)) known.insert(name);
    }
  }
  if (std::ranges::any_of(names, [](const auto& n) { return n.ends_with(".lora_A.weight"); })) {
    const FinetuneRecipe f =
        parse_recipe(file.attribute_text("/", "recipe"), file.path().string()).finetune;
    model.visit([&](Parameter& p) {
      if (is_low_rank(p) || p.value.shape().rank() != 2) return;
      merge_update(file, p, f.lora_alpha / double(f.lora_rank), known);
    });
  }
  refuse_surplus(file, known);
  model.round_images();
}

void read_weights(const Hdf5Reader& file, Model& model) {
  std::set<std::string> known = known_names(model);
  model.visit_tensors([&](const std::string& name, const Tensor& value) {
    read_into(file, name, value);
    known.insert(name);
  });
  refuse_surplus(file, known);
  model.round_images();
}

// A damaged file shows as unusable data; of a checkpoint that is a loss of integrity.
template <class F>
auto as_checkpoint_error(F&& f) {
  try {
    return f();
  } catch (const DataError& error) {
    throw CheckpointError(with_hint(error.facts(), kRemedy));
  } catch (const IntegrityError& error) {
    throw CheckpointError(with_hint(error.facts(), kRemedy));
  }
}

Progress read_progress(const Hdf5Reader& file) {
  const bool guarded = file.has_attribute("/", "guard_state");
  return {file.attribute_i64("/", "step"), file.attribute_i64("/", "tokens_seen"),
          file.attribute_i64("/", "next_sample"),
          guarded ? file.attribute_text("/", "guard_state") : ""};
}

void require_files(const Manifest& manifest, const fs::path& checkpoint) {
  for (const std::string& name : kFiles) {
    if (manifest.find(name) != nullptr) continue;
    throw CheckpointError({.file = (checkpoint / kManifestName).string(), .what = "lacks " + name});
  }
}

Progress read_checkpoint(const fs::path& checkpoint, Model& model, AdamW& optimizer,
                         const StateLayout& layout) {
  require_files(verify_folder(checkpoint), checkpoint);
  const Hdf5Reader weights = open_verified(checkpoint / "model.h5");
  read_weights(weights, model);
  const Hdf5Reader moments = open_verified(checkpoint / "optimizer.h5");
  std::set<std::string> known;
  for (const std::string& name : all_names(layout.trained, layout.groups.ep)) {
    known.insert({"m/" + name, "v/" + name});
  }
  optimizer.visit([&](const Parameter& p, const Tensor& m, const Tensor& v) {
    read_into(moments, "m/" + p.name, m);
    read_into(moments, "v/" + p.name, v);
    known.insert({"m/" + p.name, "v/" + p.name});
  });
  refuse_surplus(moments, known);
  optimizer.set_steps(moments.attribute_i64("/", "optimizer_steps"));
  const Progress progress = read_progress(weights);
  if (moments.attribute_i64("/", "step") != progress.step) {
    throw CheckpointError({.file = checkpoint.string(), .what = "files of different steps"});
  }
  const i64 named = step_of(checkpoint);
  if (named >= 0 && named != progress.step) {
    throw CheckpointError({.file = checkpoint.string(),
                           .what = "holds another step than its name says",
                           .expected = std::to_string(named),
                           .actual = std::to_string(progress.step)});
  }
  return progress;
}

}  // namespace

void save_checkpoint(const fs::path& run, Model& model, const AdamW& optimizer,
                     const Progress& progress, const CheckpointContext& context,
                     const StateLayout& layout) {
  const auto state = std::make_shared<const CheckpointSnapshot>(model, optimizer, progress, context,
                                                                layout, false);
  const auto fault = CheckpointSave(state, run, layout.groups.world, false).finish();
  if (fault) throw IoError(*fault);
}

Progress load_checkpoint(const fs::path& checkpoint, Model& model, AdamW& optimizer,
                         const StateLayout& layout) {
  return as_checkpoint_error([&] { return read_checkpoint(checkpoint, model, optimizer, layout); });
}

ModelFile find_model_file(const fs::path& path) {
  return as_checkpoint_error([&]() -> ModelFile {
    std::error_code error;
    if (!fs::exists(path, error)) {
      refuse_unreadable<ConfigError>(path, error ? error.value() : ENOENT);
    }
    if (fs::is_regular_file(path, error)) {
      verify_single(path);
      return {path, {}};
    }
    if (fs::is_regular_file(path / "model.h5", error) || is_listed(path / "model.h5")) {
      require_files(verify_folder(path), path);
      return {path / "model.h5", {}};
    }
    const auto newest = newest_checkpoint(path);
    if (newest) return {newest->folder / "model.h5", newest->skipped};
    throw ConfigError({.file = path.string(),
                       .what = "no checkpoint here",
                       .hint = "give a run folder, a step folder or a model.h5"});
  });
}

void load_weights(const ModelFile& file, Model& model) {
  as_checkpoint_error([&] { read_merged_weights(open_verified(file.path), model); });
}

CheckpointInfo read_checkpoint_info(const ModelFile& file) {
  return as_checkpoint_error([&] {
    const Hdf5Reader reader = open_verified(file.path);
    const auto text = [&](const char* name) { return reader.attribute_text("/", name); };
    return CheckpointInfo{parse_hf_config(text("config_json"), file.path.string()).model,
                          read_progress(reader),
                          {text("recipe"), text("tokenizer_sha256")}};
  });
}

}  // namespace quern
