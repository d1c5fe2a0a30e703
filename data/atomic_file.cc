// SPDX-License-Identifier: MIT
#include "quern/data/atomic_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <utility>

#include "quern/autograd/error.h"
#include "quern/data/file_descriptor.h"
#include "quern/data/file_errors.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

void sync(const fs::path& path, int flags) {
  const FileDescriptor fd(path, flags);
  if (!fd || ::fsync(fd.get()) != 0) refuse_unwritable(path, errno);
}

fs::path folder_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

}  // namespace

void sync_file(const fs::path& file) { sync(file, O_RDONLY); }
void drop_from_cache(const fs::path& file) {
  const FileDescriptor fd(file, O_RDONLY);
  if (fd) ::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_DONTNEED);
}

void sync_folder(const fs::path& folder) { sync(folder, O_RDONLY | O_DIRECTORY); }

PendingFile::PendingFile(fs::path target) : target_(std::move(target)), temporary_(target_) {
  temporary_ += ".tmp";
  std::error_code error;
  fs::create_directories(folder_of(target_), error);
  if (!error) fs::remove(temporary_, error);
  if (error) refuse_unwritable(target_, error.value());
}

PendingFile::~PendingFile() {
  std::error_code ignored;  // nothing better can be done while unwinding
  if (!published_) fs::remove(temporary_, ignored);
}

void PendingFile::publish() {
  sync_file(temporary_);
  if (std::rename(temporary_.c_str(), target_.c_str()) != 0) refuse_unwritable(target_, errno);
  published_ = true;
  sync_folder(folder_of(target_));
}

void write_file_atomically(const fs::path& path, std::string_view text) {
  PendingFile pending(path);
  {
    FileDescriptor fd(pending.temporary(), O_WRONLY | O_CREAT | O_EXCL);
    if (!fd) refuse_unwritable(path, errno);
    while (!text.empty()) {
      const ssize_t n = ::write(fd.get(), text.data(), text.size());
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) refuse_unwritable(path, errno);
      text.remove_prefix(size_t(n));
    }
    if (fd.close() != 0) refuse_unwritable(path, errno);
  }
  pending.publish();
}

std::string read_file(const fs::path& path, i64 max_bytes) {
  const FileDescriptor fd(path, O_RDONLY);
  struct stat info {};
  if (!fd || ::fstat(fd.get(), &info) != 0) refuse_unreadable<DataError>(path, errno);
  if (S_ISDIR(info.st_mode)) refuse_unreadable<DataError>(path, EISDIR);
  // Read in growing pieces: the size is not known beforehand for pipes and the like.
  std::string text;
  for (size_t have = 0;;) {
    text.resize(std::max({have + (size_t(1) << 16), size_t(info.st_size) + 1, have * 3 / 2}));
    text.resize(std::min(text.size(), size_t(max_bytes) + 1));
    const ssize_t n = ::read(fd.get(), text.data() + have, text.size() - have);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) refuse_unreadable<DataError>(path, errno);
    have += size_t(n);
    if (i64(have) > max_bytes) {
      throw DataError({.file = path.string(),
                       .what = "is too large",
                       .expected = "at most " + std::to_string(max_bytes) + " bytes",
                       .hint = "is this the right file?"});
    }
    if (n == 0) {
      text.resize(have);
      return text;
    }
  }
}

}  // namespace quern
