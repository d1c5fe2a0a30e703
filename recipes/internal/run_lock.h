// SPDX-License-Identifier: MIT
// One program at a time in a run's folder.
#pragma once

#include <filesystem>

namespace quern {

// Throws ConfigError where the folder holds a run.
void refuse_a_second_run(const std::filesystem::path& run);

// Holds the file `lock` in the folder; the system lets go of it when the process ends, however it
// ends. Throws ConfigError that names the process when another holds it, IoError when there can be
// no such file. Where the file system knows no locks, nothing is held.
class RunLock {
 public:
  explicit RunLock(const std::filesystem::path& run);
  ~RunLock();
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

 private:
  std::filesystem::path path_;
  int fd_ = -1;
};

}  // namespace quern
