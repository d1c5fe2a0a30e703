// SPDX-License-Identifier: MIT
// A file that grows by whole records: a log.
#pragma once

#include <filesystem>
#include <string_view>

namespace quern {

class AppendedFile {
 public:
  // Made when missing; what it holds stays. Throws IoError.
  explicit AppendedFile(std::filesystem::path path);
  ~AppendedFile();
  AppendedFile(AppendedFile&& other) noexcept;
  AppendedFile& operator=(AppendedFile&& other) noexcept;

  const std::filesystem::path& path() const { return path_; }

  // Hands a record to the system, whole. Throws IoError; what was written of it is then taken back
  // as far as the system lets us, and the next record can be tried.
  void append(std::string_view record);

 private:
  std::filesystem::path path_;
  int fd_ = -1;
};

}  // namespace quern
