// SPDX-License-Identifier: MIT
// Whole small files in and out of memory; writing goes through a temporary name.
#include "quern/data/text_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <system_error>

#include "quern/autograd/error.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

std::string reason(int error) { return std::generic_category().message(error); }

class FileDescriptor {
 public:
  FileDescriptor(const fs::path& path, int flags) : id_(::open(path.c_str(), flags, 0644)) {}
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  ~FileDescriptor() { close(); }
  int id() const { return id_; }
  bool close() {
    const bool closed = id_ < 0 || ::close(id_) == 0;
    id_ = -1;
    return closed;
  }

 private:
  int id_;
};

bool write_all(int id, std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::write(id, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    text.remove_prefix(static_cast<std::size_t>(n));
  }
  return true;
}

}  // namespace

std::string read_text_file(const fs::path& path, std::size_t max_bytes) {
  std::error_code error;
  if (!fs::is_regular_file(path, error)) {
    throw DataError({.file = path.string(), .what = "no such file"});
  }
  std::ifstream in(path, std::ios::binary);
  if (!in) throw IoError({.file = path.string(), .what = "cannot be opened for reading"});
  const auto size = fs::file_size(path, error);
  if (error || size > max_bytes) {
    throw DataError({.file = path.string(),
                     .expected = "at most " + std::to_string(max_bytes) + " bytes",
                     .actual = error ? error.message() : std::to_string(size)});
  }
  std::string text(static_cast<std::size_t>(size), '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (in.gcount() != static_cast<std::streamsize>(text.size())) {
    throw IoError({.file = path.string(), .what = "ends before its length"});
  }
  return text;
}

void write_text_file(const fs::path& path, std::string_view text) {
  const fs::path beside = path.string() + ".tmp." + std::to_string(::getpid());
  FileDescriptor file(beside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC);
  const bool written = file.id() >= 0 && write_all(file.id(), text) && ::fsync(file.id()) == 0 &&
                       file.close() && ::rename(beside.c_str(), path.c_str()) == 0;
  if (!written) {
    const std::string why = reason(errno);
    std::error_code ignored;
    fs::remove(beside, ignored);
    throw IoError({.file = path.string(), .what = "cannot be written: " + why});
  }
  const fs::path folder = path.has_parent_path() ? path.parent_path() : fs::path(".");
  FileDescriptor directory(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (directory.id() >= 0) ::fsync(directory.id());  // some file systems refuse; the file is whole
}

}  // namespace quern
