// SPDX-License-Identifier: MIT
// Files that appear whole or not at all: written beside their target, synced to disk, renamed.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "quern/autograd/kernels/types.h"

namespace quern {

// A file on its way to `target`. Its bytes go to temporary(), in the same folder; publish() makes
// them durable and gives them the target's name. Dropped unpublished, it takes the temporary along
// and leaves the target as it was. The temporary's name depends on the target only, so what a
// killed writer left is replaced by the next one; two writers of one target are a mistake.
class PendingFile {
 public:
  // Makes the target's folder and removes an old temporary. Throws IoError.
  explicit PendingFile(std::filesystem::path target);
  ~PendingFile();
  PendingFile(const PendingFile&) = delete;
  PendingFile& operator=(const PendingFile&) = delete;

  const std::filesystem::path& target() const { return target_; }
  const std::filesystem::path& temporary() const { return temporary_; }

  // fsync of the file, rename, fsync of the folder. The file must be closed. Throws IoError.
  void publish();

 private:
  std::filesystem::path target_;
  std::filesystem::path temporary_;
  bool published_ = false;
};

// fsync of a file, or of a folder's list of names. Throws IoError.
void sync_file(const std::filesystem::path& file);
void sync_folder(const std::filesystem::path& folder);
// Asks the system to take the next bytes read of a file from the disk, as far as it can.
void drop_from_cache(const std::filesystem::path& file);

// Throws IoError; the old file, if any, is then untouched.
void write_file_atomically(const std::filesystem::path& path, std::string_view text);

// The whole file. Throws DataError when there is no such file or it is larger than max_bytes,
// IoError when the file system does not let it be read.
std::string read_file(const std::filesystem::path& path, i64 max_bytes);

}  // namespace quern
