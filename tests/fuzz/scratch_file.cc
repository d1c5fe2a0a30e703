// SPDX-License-Identifier: MIT
#include "tests/fuzz/scratch_file.h"

#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "tests/fuzz/guard.h"

namespace fs = std::filesystem;

namespace quern::fuzz {

ScratchFile::ScratchFile(const std::string& name) {
  const fs::path memory = "/dev/shm";
  folder_ = (fs::is_directory(memory) ? memory : fs::temp_directory_path()) / "quern_fuzz.XXXXXX";
  require(mkdtemp(folder_.data()) != nullptr, "a scratch folder can be made");
  path_ = folder_ + "/" + name;
}

ScratchFile::~ScratchFile() {
  std::error_code ignored;
  fs::remove_all(folder_, ignored);
}

void ScratchFile::assign(std::string_view bytes) {
  std::FILE* const file = std::fopen(path_.c_str(), "wb");
  require(file != nullptr, "a scratch file can be opened");
  const bool written = std::fwrite(bytes.data(), 1, bytes.size(), file) == bytes.size();
  require(std::fclose(file) == 0 && written, "a scratch file can be written");
}

}  // namespace quern::fuzz
