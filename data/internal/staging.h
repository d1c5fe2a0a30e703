// SPDX-License-Identifier: MIT
// A folder of files that appears whole or not at all.
#pragma once

#include <filesystem>
#include <span>
#include <string>

namespace quern {

// Files on their way to the folder `target`. They are written into path(), beside it; publish()
// puts them in place. Dropped unpublished, nothing of it stays. Of what the target held before,
// files with other names than `names` are never touched.
class Staging {
 public:
  // `names`: all files that such a folder may hold. Throws IoError; ConfigError where the target is
  // a file.
  Staging(const std::filesystem::path& target, std::span<const std::string> names);
  ~Staging();
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  const std::filesystem::path& path() const { return path_; }

  // The files must be closed and durable. A new target, and one that holds nothing else than
  // `names`, changes in one rename; in any other the files are renamed one by one, and those of
  // `names` that are not written any more are removed. Throws IoError.
  void publish();

 private:
  bool only_ours(const std::filesystem::path& folder) const;
  bool exchange();
  void move_files();

  std::filesystem::path target_, path_;
  std::span<const std::string> names_;
};

}  // namespace quern
