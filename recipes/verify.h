// SPDX-License-Identifier: MIT
// Whether files Quern wrote still are what it wrote.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace quern {

struct VerifiedFile {
  std::filesystem::path path;
  std::string fault;  // empty: as written
};

// Every file that `path` stands for, read whole: the checkpoints of a run, one checkpoint, a folder
// of token files, or one file that has a MANIFEST beside it. Throws ConfigError where there is
// nothing to verify.
std::vector<VerifiedFile> verify_path(const std::filesystem::path& path);

bool all_good(const std::vector<VerifiedFile>& files);

// A line for each file, and the same as JSON.
std::string table_of(const std::vector<VerifiedFile>& files);
std::string json_of(const std::vector<VerifiedFile>& files);

}  // namespace quern
