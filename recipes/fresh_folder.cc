// SPDX-License-Identifier: MIT
#include "quern/recipes/internal/fresh_folder.h"

#include "quern/data/file_errors.h"

namespace quern {

namespace fs = std::filesystem;

FreshFolder::FreshFolder(const fs::path& run) : run_(run) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(run_, error)) before_.insert(entry.path());
  for (fs::path at = fs::absolute(run_ / "").parent_path(); !fs::exists(at, error);
       at = at.parent_path()) {
    if (error) break;
    made_.push_back(at);
  }
  fs::create_directories(run_ / "checkpoints", error);
  if (!error) return;
  clear();
  refuse_unwritable(run_, error.value());
}

FreshFolder::~FreshFolder() {
  if (!kept_) clear();
}

void FreshFolder::clear() {
  std::error_code ignored;  // nothing better can be done while unwinding
  std::vector<fs::path> added;
  for (const auto& entry : fs::directory_iterator(run_, ignored)) {
    if (!before_.contains(entry.path())) added.push_back(entry.path());
  }
  for (const fs::path& path : added) fs::remove_all(path, ignored);
  for (const fs::path& folder : made_) fs::remove(folder, ignored);  // those that are empty
}

}  // namespace quern
