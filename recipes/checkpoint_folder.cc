// SPDX-License-Identifier: MIT
#include "quern/recipes/checkpoint_folder.h"

#include <fcntl.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "quern/autograd/error.h"
#include "quern/data/atomic_file.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

constexpr const char* kTemporary = ".tmp";

// The step of "step-000400"; nothing for other names.
std::optional<i64> step_in(const std::string& name) {
  const std::string digits = name.starts_with("step-") ? name.substr(5) : "";
  if (digits.empty() || digits.size() > 18 ||
      digits.find_first_not_of("0123456789") != std::string::npos) {
    return std::nullopt;
  }
  return std::stoll(digits);
}

void refuse(const fs::path& path, const std::string& what, const std::string& why) {
  throw IoError({.file = path.string(), .what = what, .actual = why});
}

void check(const fs::path& path, const char* what, const std::error_code& error) {
  if (error) refuse(path, what, error.message());
}

// Also a symbolic link, whose target stays.
bool remove_whole(const fs::path& path) {
  std::error_code error;
  fs::remove_all(path, error);
  return !error;
}

// By another name first, so that a deletion cut short leaves nothing that looks like a checkpoint.
void remove_checkpoint(const fs::path& checkpoint) {
  const fs::path doomed = checkpoint.string() + kTemporary;
  std::error_code error;
  if (!remove_whole(doomed)) return;
  fs::rename(checkpoint, doomed, error);
  if (!error) remove_whole(doomed);
}

void remove_debris(const fs::path& run) {
  std::vector<fs::path> debris;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(run / "checkpoints", ignored)) {
    const std::string name = entry.path().filename().string();
    if (!name.ends_with(kTemporary)) continue;
    const std::string stem = name.substr(0, name.size() - std::strlen(kTemporary));
    if (stem == "latest" || step_in(stem)) debris.push_back(entry.path());
  }
  for (const fs::path& path : debris) remove_whole(path);
}

void require_room(const fs::path& folder, i64 bytes) {
  struct statvfs info {};
  if (::statvfs(folder.c_str(), &info) != 0) return;  // then writing will tell
  const double free = double(info.f_bavail) * double(info.f_frsize);
  if (free >= double(bytes)) return;
  throw IoError({.file = folder.string(),
                 .what = "not enough room on this disk for a checkpoint",
                 .expected = std::to_string(bytes) + " bytes free",
                 .actual = std::to_string(i64(free)),
                 .hint = "free some, or keep fewer with train.keep_checkpoints"});
}

// Why the folder does not verify; empty when it does.
std::string fault_of(const fs::path& checkpoint) {
  try {
    verify_folder(checkpoint);
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

// Gives `made` the name `target`, whose old bearer, if any, is gone afterwards.
void put_in_place(const fs::path& made, const fs::path& target) {
  if (std::rename(made.c_str(), target.c_str()) == 0) return;
  if (errno != ENOTEMPTY && errno != EEXIST && errno != ENOTDIR) {
    refuse(target, "cannot be given its name", std::strerror(errno));
  }
  // An older one of the same step: the two change names, so that one is there at any moment.
  if (::renameat2(AT_FDCWD, made.c_str(), AT_FDCWD, target.c_str(), RENAME_EXCHANGE) == 0) {
    remove_whole(made);
    return;
  }
  if (errno != EINVAL && errno != ENOSYS) {
    refuse(target, "cannot be replaced", std::strerror(errno));
  }
  // This file system cannot exchange names.
  if (!remove_whole(target) || std::rename(made.c_str(), target.c_str()) != 0) {
    refuse(target, "cannot be replaced", std::strerror(errno));
  }
}

}  // namespace

fs::path checkpoint_path(const fs::path& run, i64 step) {
  char name[32];
  std::snprintf(name, sizeof name, "step-%06lld", static_cast<long long>(step));
  return run / "checkpoints" / name;
}

fs::path pending_path(const fs::path& run, i64 step) {
  return checkpoint_path(run, step).string() + kTemporary;
}

i64 step_of(const fs::path& checkpoint) {
  return step_in(checkpoint.filename().string()).value_or(-1);
}

std::vector<fs::path> list_checkpoints(const fs::path& run) {
  std::vector<std::pair<i64, fs::path>> found;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(run / "checkpoints", ignored)) {
    const auto step = step_in(entry.path().filename().string());
    if (step) found.emplace_back(*step, entry.path());
  }
  std::sort(found.begin(), found.end());
  std::vector<fs::path> paths;
  for (auto& [step, path] : found) paths.push_back(std::move(path));
  return paths;
}

bool is_whole(const fs::path& checkpoint) { return fault_of(checkpoint).empty(); }

std::optional<VerifiedCheckpoint> newest_checkpoint(const fs::path& run) {
  std::vector<fs::path> all = list_checkpoints(run);
  if (all.empty()) return std::nullopt;
  VerifiedCheckpoint found;
  for (; !all.empty(); all.pop_back()) {
    const std::string fault = fault_of(all.back());
    if (fault.empty()) {
      found.folder = all.back();
      return found;
    }
    found.skipped.push_back({all.back(), fault});
  }
  ErrorFacts facts{.file = found.skipped.front().folder.string(),
                   .what = "no checkpoint of this run verifies",
                   .hint = "restore the file from a copy, or delete " +
                           (run / "checkpoints").string() + " to start the run again"};
  try {
    verify_folder(found.skipped.front().folder);
  } catch (const Error& error) {
    const std::string hint = facts.hint;
    facts = error.facts();
    facts.hint = "no checkpoint of this run verifies: " + hint;
  }
  throw CheckpointError(facts);
}

void warn_of_skipped(const std::vector<SkippedCheckpoint>& skipped) {
  for (const SkippedCheckpoint& s : skipped) {
    std::fprintf(stderr, "quern: warning: %s is skipped: %s\n",
                 s.folder.filename().string().c_str(), s.why.c_str());
  }
}

PendingCheckpoint::PendingCheckpoint(fs::path run, i64 step, i64 bytes)
    : run_(std::move(run)), step_(step) {
  const fs::path made = pending_path(run_, step_);
  std::error_code error;
  fs::create_directories(made.parent_path(), error);
  check(made.parent_path(), "cannot be made", error);
  require_room(made.parent_path(), bytes);
  fs::remove_all(made, error);
  check(made, "cannot be deleted", error);
  fs::create_directory(made, error);
  check(made, "cannot be made", error);
}

PendingCheckpoint::~PendingCheckpoint() { remove_whole(pending_path(run_, step_)); }

void PendingCheckpoint::publish(const Manifest& manifest) {
  const fs::path made = pending_path(run_, step_), target = checkpoint_path(run_, step_);
  write_manifest(made, manifest);
  sync_folder(made);
  drop_from_cache(made / kManifestName);
  if (read_manifest(made).files != manifest.files) {
    throw IoError({.file = made.string(), .what = "does not read back as it was written"});
  }
  const bool same = fault_of(target).empty() && read_manifest(target).files == manifest.files;
  if (!same) put_in_place(made, target);
  sync_folder(target.parent_path());
  write_file_atomically(target.parent_path() / "latest", target.filename().string() + "\n");
}

Manifest seal_files(const fs::path& folder, const std::vector<std::string>& names) {
  Manifest manifest = hash_files(folder, names);
  for (const std::string& name : names) {
    drop_from_cache(folder / name);
    verify_file(manifest, folder / name);
  }
  return manifest;
}

void prune_checkpoints(const fs::path& run, i64 newest, Retention& retention) {
  remove_debris(run);
  std::vector<fs::path> all = list_checkpoints(run);
  retention.verified.insert(newest);
  i64 kept = 0;
  for (; !all.empty(); all.pop_back()) {
    const i64 step = step_of(all.back());
    if (step > newest) continue;
    if (kept < std::max<i64>(retention.last, 1)) {
      const bool good = retention.verified.contains(step) || fault_of(all.back()).empty();
      if (good) retention.verified.insert(step);
      kept += good;
      continue;
    }
    const bool asked = retention.every > 0 && step % retention.every == 0;
    if (!asked && step != retention.best) remove_checkpoint(all.back());
  }
}

}  // namespace quern
