// SPDX-License-Identifier: MIT
#include "quern/recipes/checkpoint.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <set>
#include <string_view>

#include "quern/data/file_errors.h"
#include "quern/data/hdf5_file.h"
#include "quern/data/manifest.h"
#include "quern/recipes/hf_config.h"
#include "quern/recipes/recipe.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

constexpr const char* kRemedy = "use another step of the run, or copy this one again";
constexpr i64 kFormatVersion = 1;
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
  verify_file(read_manifest(path.parent_path()), path);
  if (foreign) refuse_no_checkpoint(path);
}

// Only for files whose hash was found to be the one written down when they were saved: damaged
// bytes can crash libhdf5.
Hdf5Reader open_verified(const fs::path& path) {
  Hdf5Reader file(path);
  if (!file.has_attribute("/", "format") ||
      file.attribute_text("/", "format") != "quern_checkpoint") {
    refuse_no_checkpoint(path);
  }
  const i64 version = file.attribute_i64("/", "version");
  if (version != kFormatVersion) {
    throw ConfigError({.file = path.string(),
                       .what = "checkpoint of an unknown version",
                       .expected = std::to_string(kFormatVersion),
                       .actual = std::to_string(version),
                       .hint = "use the quern that wrote it"});
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

// libhdf5 may have lost a write without a word; the hashes, taken afterwards, would not show it.
void compare(const Hdf5Reader& file, const std::string& name, const Tensor& meant) {
  const Tensor stored = file.read(name);
  const auto a = stored.bytes(), b = meant.bytes();
  if (a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size()) == 0) return;
  throw IoError(
      {.file = file.path().string(), .key = name, .what = "does not read back as it was written"});
}

}  // namespace

CheckpointSnapshot::CheckpointSnapshot(Model& model, const AdamW& optimizer,
                                       const Progress& progress, const CheckpointContext& context,
                                       const StateLayout& layout, bool copied)
    : parameters_(gather_state(model, optimizer, layout)),
      config_json_(to_hf_config(model.config)),
      optimizer_steps_(optimizer.steps()),
      progress_(progress),
      context_(context) {
  if (layout.groups.world.rank() != 0) return;
  model.visit_buffers(
      [&](const std::string& name, const Tensor& value) { buffers_.emplace_back(name, value); });
  if (!copied) return;
  const auto copy = [](Tensor& t) {
    if (t.defined()) t = t.clone();
  };
  for (StateEntry& e : parameters_) {
    for (Tensor* t : {&e.value, &e.m, &e.v}) copy(*t);
  }
  for (auto& [name, value] : buffers_) copy(value);
}

template <class F>
void CheckpointSnapshot::for_each_weight(F&& f) const {
  for (const StateEntry& e : parameters_) f(e.name, e.value);
  for (const auto& [name, value] : buffers_) f(name, value);
}

template <class F>
void CheckpointSnapshot::for_each_moment(F&& f) const {
  for (const StateEntry& e : parameters_) {
    if (!e.m.defined()) continue;
    f("m/" + e.name, e.m);
    f("v/" + e.name, e.v);
  }
}

void CheckpointSnapshot::describe(Hdf5Writer& file) const {
  file.set_attribute("/", "format", "quern_checkpoint");
  file.set_attribute("/", "version", kFormatVersion);
  file.set_attribute("/", "code_version", QUERN_VERSION);
  file.set_attribute("/", "config_json", config_json_);
  file.set_attribute("/", "recipe", context_.recipe);
  file.set_attribute("/", "tokenizer_sha256", context_.tokenizer_sha256);
  file.set_attribute("/", "step", progress_.step);
  file.set_attribute("/", "tokens_seen", progress_.tokens_seen);
  file.set_attribute("/", "next_sample", progress_.next_sample);
  if (!progress_.guard_state.empty()) {
    file.set_attribute("/", "guard_state", progress_.guard_state);
  }
}

void CheckpointSnapshot::write_weights(const fs::path& path) const {
  Hdf5Writer file(path);
  describe(file);
  for_each_weight([&](const std::string& name, const Tensor& value) { file.write(name, value); });
  file.commit();
}

void CheckpointSnapshot::write_moments(const fs::path& path) const {
  Hdf5Writer file(path);
  describe(file);
  file.set_attribute("/", "optimizer_steps", optimizer_steps_);
  for_each_moment([&](const std::string& name, const Tensor& value) { file.write(name, value); });
  file.commit();
}

void CheckpointSnapshot::compare_files(const fs::path& folder) const {
  const Hdf5Reader weights = open_verified(folder / "model.h5");
  for_each_weight(
      [&](const std::string& name, const Tensor& value) { compare(weights, name, value); });
  const Hdf5Reader moments = open_verified(folder / "optimizer.h5");
  for_each_moment(
      [&](const std::string& name, const Tensor& value) { compare(moments, name, value); });
}

// At most. A tensor comes three times, its last chunk (1 MiB) may be filled up, and each dataset
// has a header.
i64 CheckpointSnapshot::bytes_needed() const {
  i64 bytes = (i64{1} << 20) + 4 * i64(context_.recipe.size());
  for_each_weight([&](const std::string&, const Tensor& value) {
    const i64 values = i64(value.bytes().size());
    bytes += 3 * (values + std::min(values, i64{1} << 20) + (i64{4} << 10));
  });
  return bytes;
}

void CheckpointSnapshot::write(const fs::path& run) const {
  publish_checkpoint(run, progress_.step, bytes_needed(), kFiles, [&](const fs::path& folder) {
    write_weights(folder / "model.h5");
    write_moments(folder / "optimizer.h5");
    compare_files(folder);
  });
}

void save_checkpoint(const fs::path& run, Model& model, const AdamW& optimizer,
                     const Progress& progress, const CheckpointContext& context,
                     const StateLayout& layout) {
  const CheckpointSnapshot state(model, optimizer, progress, context, layout, false);
  if (layout.groups.world.rank() == 0) state.write(run);
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
