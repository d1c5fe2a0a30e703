// SPDX-License-Identifier: MIT
#include "quern/recipes/internal/checkpoint_snapshot.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "quern/data/hdf5_file.h"
#include "quern/recipes/hf_config.h"
#include "quern/recipes/internal/checkpoint_format.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

// "model-00002-of-00004.h5", of the second rank.
std::string shard_name(const std::string& kind, int rank, int ranks) {
  char number[32];
  std::snprintf(number, sizeof number, "-%05d-of-%05d.h5", rank + 1, ranks);
  return kind + number;
}

// libhdf5 may have lost a write without a word; the hashes, taken afterwards, would not show it.
void refuse_unlike(const Hdf5Reader& file, const std::string& name, bool same) {
  if (same) return;
  throw IoError(
      {.file = file.path().string(), .key = name, .what = "does not read back as it was written"});
}

bool same_bytes(const Tensor& a, const Tensor& b) {
  const auto x = a.bytes(), y = b.bytes();
  return x.size() == y.size() && std::memcmp(x.data(), y.data(), x.size()) == 0;
}

}  // namespace

CheckpointSnapshot::CheckpointSnapshot(Model& model, const AdamW& optimizer,
                                       const Progress& progress, const CheckpointContext& context,
                                       const StateLayout& layout, bool copied)
    : rank_(layout.groups.world.rank()),
      ranks_(layout.groups.world.size()),
      config_json_(to_hf_config(model.config)),
      optimizer_steps_(optimizer.steps()),
      progress_(progress),
      context_(context) {
  RunState state = state_of(model, optimizer, layout);
  kinds_ = {{"model", std::move(state.weights)}, {"optimizer", std::move(state.moments)}};
  if (!copied) return;
  for (Kind& kind : kinds_) {
    for (StateTensor& t : kind.tensors) {
      if (t.here.defined()) t.here = t.here.clone();
    }
  }
}

std::vector<std::string> CheckpointSnapshot::shards_of(const std::string& kind) const {
  std::vector<std::string> names;
  for (int r = 0; r < ranks_; ++r) names.push_back(shard_name(kind, r, ranks_));
  return names;
}

void CheckpointSnapshot::describe(Hdf5Writer& file, bool index) const {
  file.set_attribute("/", "format", kCheckpointFormat);
  file.set_attribute("/", "version", index ? kIndexVersion : kWholeVersion);
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

std::vector<std::string> CheckpointSnapshot::write_part(const fs::path& folder) const {
  std::error_code ignored;
  if (!fs::is_directory(folder, ignored)) {
    throw IoError({.file = folder.string(),
                   .what = "rank " + std::to_string(rank_) + " does not see this folder",
                   .hint = "a run's folder lies on a disk that all ranks share"});
  }
  std::vector<std::string> names;
  for (const Kind& kind : kinds_) {
    const bool whole = ranks_ == 1;
    names.push_back(whole ? kind.name + ".h5" : shard_name(kind.name, rank_, ranks_));
    const fs::path path = folder / names.back();
    {
      Hdf5Writer file(path);
      if (whole) {
        describe(file, false);
        if (kind.name == "optimizer") file.set_attribute("/", "optimizer_steps", optimizer_steps_);
      } else {
        file.set_attribute("/", "format", kShardFormat);
        file.set_attribute("/", "step", progress_.step);
      }
      for (const StateTensor& t : kind.tensors) {
        if (t.here.defined()) file.write(t.name, t.here);
      }
      file.commit();
    }
    const Hdf5Reader file(path);
    for (const StateTensor& t : kind.tensors) {
      if (t.here.defined()) refuse_unlike(file, t.name, same_bytes(file.read(t.name), t.here));
    }
  }
  return names;
}

std::vector<std::string> CheckpointSnapshot::write_index(const fs::path& folder) const {
  std::vector<std::string> names;
  for (const Kind& kind : kinds_) {
    const std::vector<std::string> shards = shards_of(kind.name);
    names.push_back(kind.name + ".h5");
    const fs::path path = folder / names.back();
    {
      Hdf5Writer file(path);
      describe(file, true);
      std::string list;
      for (const std::string& shard : shards) list += (list.empty() ? "" : " ") + shard;
      file.set_attribute("/", "shards", list);
      if (kind.name == "optimizer") file.set_attribute("/", "optimizer_steps", optimizer_steps_);
      for (const StateTensor& t : kind.tensors) {
        file.write_virtual(t.name, t.dtype, t.shape, shards[size_t(t.writer)]);
      }
      file.commit();
    }
    const Hdf5Reader file(path);  // which looks into the shards
    for (const StateTensor& t : kind.tensors) {
      refuse_unlike(file, t.name, file.shape(t.name) == t.shape);
    }
  }
  return names;
}

// A tensor comes three times, its last chunk (1 MiB) may be filled up, and each dataset has a
// header; an index has a line for each, and its groups.
i64 CheckpointSnapshot::bytes_needed() const {
  i64 bytes = (i64{1} << 20) + 4 * i64(context_.recipe.size());
  for (const StateTensor& t : kinds_[0].tensors) {
    bytes += 3 * (t.bytes() + std::min(t.bytes(), i64{1} << 20) + (i64{4} << 10));
  }
  return bytes;
}

}  // namespace quern
