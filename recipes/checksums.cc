// SPDX-License-Identifier: MIT
#include "quern/recipes/checksums.h"

#include <set>
#include <string>

#include "quern/autograd/error.h"
#include "quern/data/atomic_file.h"
#include "quern/data/sha256.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

constexpr const char* kName = "SHA256SUMS";
constexpr i64 kMaxBytes = 1 << 20;

std::string line_of(const std::string& hash, const fs::path& file) {
  return hash + "  " + file.filename().string() + "\n";
}

}  // namespace

void write_checksums(const fs::path& folder) {
  std::set<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.is_regular_file() && entry.path().filename() != kName) files.insert(entry.path());
  }
  std::string text;
  for (const fs::path& file : files) text += line_of(sha256_of_file(file), file);
  write_file_atomically(folder / kName, text);
}

void verify_checksum(const fs::path& file) {
  const fs::path list = file.parent_path() / kName;
  try {
    const std::string line = line_of(sha256_of_file(file), file);
    if (("\n" + read_file(list, kMaxBytes)).find("\n" + line) != std::string::npos) return;
  } catch (const DataError& error) {
    throw CheckpointError(error.facts());
  }
  throw CheckpointError(
      {.file = file.string(), .what = "damaged: its SHA-256 is not the one in " + list.string()});
}

bool has_checksums(const fs::path& folder) { return fs::exists(folder / kName); }

}  // namespace quern
