// SPDX-License-Identifier: MIT
#include "quern/data/internal/staging.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "quern/autograd/error.h"
#include "quern/data/file_errors.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

void sync_folder(const fs::path& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const bool synced = fd >= 0 && ::fsync(fd) == 0;
  const int error = errno;
  if (fd >= 0) ::close(fd);
  if (!synced) refuse_unwritable(folder, error);
}

// Absolute, without links and without a '/' at its end, so that a folder beside it has a name.
fs::path resolved(const fs::path& target) {
  std::error_code error;
  const fs::path whole = fs::weakly_canonical(fs::absolute(target), error);
  if (error) refuse_unwritable(target, error.value());
  return whole.has_filename() ? whole : whole.parent_path();
}

}  // namespace

Staging::Staging(const fs::path& target, std::span<const std::string> names)
    : target_(resolved(target)), names_(names) {
  std::error_code error;
  if (fs::exists(target_, error) && !fs::is_directory(target_, error)) {
    throw ConfigError({.file = target.string(),
                       .what = "is a file",
                       .expected = "a folder, or nothing yet",
                       .hint = "choose another --out"});
  }
  path_ = target_;
  path_ += ".tmp";
  if (fs::exists(path_, error) && !only_ours(path_)) {
    throw ConfigError({.file = path_.string(),
                       .what = "is in the way: files are written here first",
                       .hint = "move it, or choose another --out"});
  }
  fs::remove_all(path_, error);  // what an interrupted call has left
  if (!error) fs::create_directories(path_, error);
  if (error) refuse_unwritable(target, error.value());
}

Staging::~Staging() {
  std::error_code ignored;  // nothing better can be done while unwinding
  if (fs::exists(path_, ignored) && only_ours(path_)) fs::remove_all(path_, ignored);
}

// Whether a folder holds files of ours alone, finished or not.
bool Staging::only_ours(const fs::path& folder) const {
  std::error_code error;
  if (fs::is_symlink(folder, error)) return false;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    std::string name = entry.path().filename().string();
    if (name.ends_with(".tmp")) name.resize(name.size() - 4);
    if (std::ranges::find(names_, name) == names_.end() || !entry.is_regular_file(error)) {
      return false;
    }
  }
  return !error;
}

// Swaps the two folders, so that the target is never missing; the old one is then removed from
// where the new one was. False where that cannot be done here.
bool Staging::exchange() {
  std::error_code error;
  if (fs::equivalent(target_, fs::current_path(error), error) || !only_ours(target_)) return false;
  return ::renameat2(AT_FDCWD, path_.c_str(), AT_FDCWD, target_.c_str(), RENAME_EXCHANGE) == 0;
}

void Staging::move_files() {
  for (const std::string& name : names_) {
    std::error_code error;
    if (fs::exists(path_ / name, error)) {
      fs::rename(path_ / name, target_ / name, error);
    } else {
      fs::remove(target_ / name, error);
    }
    if (error) refuse_unwritable(target_ / name, error.value());
  }
  sync_folder(target_);
}

void Staging::publish() {
  sync_folder(path_);
  std::error_code error;
  if (!fs::exists(target_, error)) {
    fs::rename(path_, target_, error);
    if (error) refuse_unwritable(target_, error.value());
  } else if (!exchange()) {
    move_files();
  }
  sync_folder(target_.parent_path());
}

}  // namespace quern
