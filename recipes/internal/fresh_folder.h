// SPDX-License-Identifier: MIT
// The folder of a run that may still be refused.
#pragma once

#include <filesystem>
#include <set>
#include <vector>

namespace quern {

// Makes run/checkpoints. Dropped before keep(), it takes away again what was not there before, and
// nothing else.
class FreshFolder {
 public:
  explicit FreshFolder(const std::filesystem::path& run);  // throws IoError
  ~FreshFolder();
  FreshFolder(const FreshFolder&) = delete;
  FreshFolder& operator=(const FreshFolder&) = delete;

  void keep() { kept_ = true; }

 private:
  void clear();

  std::filesystem::path run_;
  std::set<std::filesystem::path> before_;     // what was in it
  std::vector<std::filesystem::path> made_;    // it and the folders above that were missing
  bool kept_ = false;
};

}  // namespace quern
