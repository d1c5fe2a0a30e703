// SPDX-License-Identifier: MIT
#include "quern/distributed/internal/lifeline.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>

namespace quern::internal {
namespace {

void close_and_forget(int& descriptor) {
  if (descriptor >= 0) ::close(descriptor);
  descriptor = -1;
}

}  // namespace

Lifeline::Lifeline() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) return;
  read_ = ends[0];
  write_ = ends[1];
}

Lifeline::~Lifeline() {
  leave();
  close_and_forget(read_);
  close_and_forget(other_);
}

Lifeline::Place Lifeline::place() const {
  struct stat at {};
  if (read_ < 0 || ::fstat(read_, &at) != 0) return {};
  return {std::uint64_t(::getpid()), std::uint64_t(read_), at.st_dev, at.st_ino};
}

// The word is read before the end of the pipe is.
void Lifeline::leave() {
  if (write_ >= 0) (void)!::write(write_, "", 1);
  close_and_forget(write_);
}

// Whoever has the same number in another container has another pipe.
bool Lifeline::follow(const Place& other) {
  const std::string path = "/proc/" + std::to_string(other[0]) + "/fd/" + std::to_string(other[1]);
  struct stat at {};
  if (other[3] == 0 || ::stat(path.c_str(), &at) != 0) return false;
  if (!S_ISFIFO(at.st_mode) || at.st_dev != other[2] || at.st_ino != other[3]) return false;
  other_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  return other_ >= 0;
}

bool Lifeline::other_died() {
  char word = 0;
  const ssize_t n = other_ < 0 ? -1 : ::read(other_, &word, 1);
  if (n >= 0) close_and_forget(other_);
  return n == 0;
}

}  // namespace quern::internal
