// SPDX-License-Identifier: MIT
#include "quern/recipes/checkpoint.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <set>

#include "quern/data/hdf5_file.h"
#include "quern/data/manifest.h"
#include "quern/recipes/hf_config.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

constexpr i64 kFormatVersion = 1;

void sync_folder(const fs::path& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY);
  const bool synced = fd >= 0 && ::fsync(fd) == 0;
  if (fd >= 0) ::close(fd);
  if (!synced) throw IoError({.file = folder.string(), .what = "cannot be synced to disk"});
}

void describe(Hdf5Writer& file, const Model& model, const Progress& progress,
              const CheckpointContext& context) {
  file.set_attribute("/", "format", "quern_checkpoint");
  file.set_attribute("/", "version", kFormatVersion);
  file.set_attribute("/", "code_version", QUERN_VERSION);
  file.set_attribute("/", "config_json", to_hf_config(model.config));
  file.set_attribute("/", "recipe", context.recipe);
  file.set_attribute("/", "tokenizer_sha256", context.tokenizer_sha256);
  file.set_attribute("/", "step", progress.step);
  file.set_attribute("/", "tokens_seen", progress.tokens_seen);
  file.set_attribute("/", "next_sample", progress.next_sample);
  if (!progress.guard_state.empty()) {
    file.set_attribute("/", "guard_state", progress.guard_state);
  }
}

// Nothing reaches libhdf5, which damaged bytes can crash, before its hash is found to be the one
// written down when it was saved.
Hdf5Reader open_checked(const fs::path& path) {
  verify_file(read_manifest(path.parent_path()), path);
  Hdf5Reader file(path);
  if (!file.has_attribute("/", "format") ||
      file.attribute_text("/", "format") != "quern_checkpoint") {
    throw CheckpointError({.file = path.string(), .what = "not a Quern checkpoint"});
  }
  const i64 version = file.attribute_i64("/", "version");
  if (version != kFormatVersion) {
    throw CheckpointError({.file = path.string(),
                           .what = "checkpoint of an unknown version",
                           .expected = std::to_string(kFormatVersion),
                           .actual = std::to_string(version)});
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

void refuse_surplus(const Hdf5Reader& file, const std::set<std::string>& known) {
  for (const std::string& name : file.names()) {
    if (!known.contains(name)) {
      throw CheckpointError({.file = file.path().string(),
                             .key = name,
                             .what = "a tensor that the model does not have"});
    }
  }
}

void read_weights(const Hdf5Reader& file, Model& model) {
  std::set<std::string> known;
  model.visit([&](Parameter& p) {
    read_into(file, p.name, p.value);
    known.insert(p.name);
  });
  refuse_surplus(file, known);
}

// A damaged file shows as unusable data; of a checkpoint that is a loss of integrity.
template <class F>
auto as_checkpoint_error(F&& f) {
  try {
    return f();
  } catch (const DataError& error) {
    throw CheckpointError(error.facts());
  } catch (const IntegrityError& error) {
    throw CheckpointError(error.facts());
  }
}

Progress read_progress(const Hdf5Reader& file) {
  const bool guarded = file.has_attribute("/", "guard_state");
  return {file.attribute_i64("/", "step"), file.attribute_i64("/", "tokens_seen"),
          file.attribute_i64("/", "next_sample"),
          guarded ? file.attribute_text("/", "guard_state") : ""};
}

Progress read_checkpoint(const fs::path& checkpoint, Model& model, AdamW& optimizer) {
  const Hdf5Reader weights = open_checked(checkpoint / "model.h5");
  read_weights(weights, model);
  const Hdf5Reader moments = open_checked(checkpoint / "optimizer.h5");
  std::set<std::string> known;
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
  return progress;
}

}  // namespace

fs::path checkpoint_path(const fs::path& run, i64 step) {
  char name[32];
  std::snprintf(name, sizeof name, "step-%06lld", static_cast<long long>(step));
  return run / "checkpoints" / name;
}

std::vector<fs::path> list_checkpoints(const fs::path& run) {
  std::vector<std::pair<i64, fs::path>> found;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(run / "checkpoints", ignored)) {
    const std::string name = entry.path().filename().string();
    const std::string digits = name.starts_with("step-") ? name.substr(5) : "";
    if (digits.empty() || digits.size() > 18 ||
        digits.find_first_not_of("0123456789") != std::string::npos) {
      continue;
    }
    found.emplace_back(std::stoll(digits), entry.path());
  }
  std::sort(found.begin(), found.end());
  std::vector<fs::path> paths;
  for (auto& [step, path] : found) paths.push_back(std::move(path));
  return paths;
}

void save_checkpoint(const fs::path& run, Model& model, const AdamW& optimizer,
                     const Progress& progress, const CheckpointContext& context) {
  const fs::path target = checkpoint_path(run, progress.step);
  const fs::path temporary = target.string() + ".tmp";
  std::error_code error;
  fs::remove_all(temporary, error);
  fs::create_directories(temporary, error);
  if (error) throw IoError({.file = temporary.string(), .what = error.message()});

  Hdf5Writer weights(temporary / "model.h5");
  describe(weights, model, progress, context);
  model.visit([&](Parameter& p) { weights.write(p.name, p.value); });
  weights.commit();
  Hdf5Writer moments(temporary / "optimizer.h5");
  describe(moments, model, progress, context);
  moments.set_attribute("/", "optimizer_steps", optimizer.steps());
  optimizer.visit([&](const Parameter& p, const Tensor& m, const Tensor& v) {
    moments.write("m/" + p.name, m);
    moments.write("v/" + p.name, v);
  });
  moments.commit();

  write_manifest(temporary, hash_files(temporary, {"model.h5", "optimizer.h5"}));
  sync_folder(temporary);
  fs::remove_all(target, error);  // the same step, saved before: equal bytes
  fs::rename(temporary, target, error);
  if (error) throw IoError({.file = target.string(), .what = error.message()});
  sync_folder(target.parent_path());
}

void prune_checkpoints(const fs::path& run, i64 keep) {
  const std::vector<fs::path> all = list_checkpoints(run);
  for (i64 i = 0; i + std::max<i64>(keep, 1) < i64(all.size()); ++i) {
    std::error_code ignored;
    fs::remove_all(all[size_t(i)], ignored);
  }
  std::vector<fs::path> unfinished;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(run / "checkpoints", ignored)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("step-") && name.ends_with(".tmp")) unfinished.push_back(entry.path());
  }
  for (const fs::path& path : unfinished) fs::remove_all(path, ignored);
}

Progress load_checkpoint(const fs::path& checkpoint, Model& model, AdamW& optimizer) {
  return as_checkpoint_error([&] { return read_checkpoint(checkpoint, model, optimizer); });
}

fs::path find_model_file(const fs::path& path) {
  if (fs::is_regular_file(path)) return path;
  if (fs::is_regular_file(path / "model.h5")) return path / "model.h5";
  const std::vector<fs::path> checkpoints = list_checkpoints(path);
  if (!checkpoints.empty()) return checkpoints.back() / "model.h5";
  throw ConfigError({.file = path.string(),
                     .what = "no checkpoint here",
                     .hint = "give a run folder, a step folder or a model.h5"});
}

void load_weights(const fs::path& path, Model& model) {
  const fs::path file = find_model_file(path);
  as_checkpoint_error([&] { read_weights(open_checked(file), model); });
}

CheckpointInfo read_checkpoint_info(const fs::path& path) {
  const fs::path file = find_model_file(path);
  return as_checkpoint_error([&] {
    const Hdf5Reader reader = open_checked(file);
    const auto text = [&](const char* name) { return reader.attribute_text("/", name); };
    return CheckpointInfo{parse_hf_config(text("config_json"), file.string()).model,
                          read_progress(reader),
                          {text("recipe"), text("tokenizer_sha256")}};
  });
}

}  // namespace quern
