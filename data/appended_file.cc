// SPDX-License-Identifier: MIT
#include "quern/data/appended_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "quern/autograd/error.h"

namespace quern {

AppendedFile::AppendedFile(std::filesystem::path path) : path_(std::move(path)) {
  fd_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (fd_ >= 0) return;
  throw IoError(
      {.file = path_.string(), .what = "cannot be opened", .actual = std::strerror(errno)});
}

AppendedFile::~AppendedFile() {
  if (fd_ >= 0) ::close(fd_);
}

AppendedFile::AppendedFile(AppendedFile&& other) noexcept
    : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)) {}

AppendedFile& AppendedFile::operator=(AppendedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(fd_, other.fd_);
  return *this;
}

void AppendedFile::append(std::string_view record) {
  struct stat info {};
  const bool known = ::fstat(fd_, &info) == 0;
  while (!record.empty()) {
    const ssize_t n = ::write(fd_, record.data(), record.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      const int error = n < 0 ? errno : ENOSPC;
      // A piece of a record would garble the next one.
      const bool undone = known && ::ftruncate(fd_, info.st_size) == 0;
      throw IoError({.file = path_.string(),
                     .what = undone ? "cannot be written" : "cannot be written, or cut back",
                     .actual = std::strerror(error)});
    }
    record.remove_prefix(size_t(n));
  }
}

}  // namespace quern
