// SPDX-License-Identifier: MIT
// A file, rewritten for each input, for readers that want a path; in memory where there is
// /dev/shm.
#pragma once

#include <string>
#include <string_view>

namespace quern::fuzz {

class ScratchFile {
 public:
  // `name` is what it is called in a folder of its own, which goes when the process ends well.
  explicit ScratchFile(const std::string& name);
  ~ScratchFile();
  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;

  void assign(std::string_view bytes);
  const std::string& path() const { return path_; }

 private:
  std::string folder_;
  std::string path_;
};

}  // namespace quern::fuzz
