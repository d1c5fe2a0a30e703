// SPDX-License-Identifier: MIT
#include "quern/recipes/internal/run_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

#include "quern/autograd/error.h"
#include "quern/data/file_errors.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

std::string own_name() {
  char host[256] = {};
  if (::gethostname(host, sizeof host - 1) != 0) host[0] = '\0';
  return std::string(host) + " " + std::to_string(::getpid()) + "\n";
}

// "host pid" of whoever holds the lock, for the message.
std::string holder(int fd) {
  char text[300] = {};
  const ssize_t n = ::pread(fd, text, sizeof text - 1, 0);
  std::string name(text, n > 0 ? size_t(n) : 0);
  const size_t blank = name.find(' ');
  const auto plain = [](char c) { return c > ' ' && c < 127; };
  if (blank == std::string::npos || !name.ends_with('\n')) return "";
  const std::string host = name.substr(0, blank);
  const std::string pid = name.substr(blank + 1, name.size() - blank - 2);
  if (!std::all_of(host.begin(), host.end(), plain) || !std::all_of(pid.begin(), pid.end(), plain))
    return "";
  return "process " + pid + " on " + host;
}

// Whether the open file is still the one of that name: its holder deletes it at the end.
bool is_at(int fd, const fs::path& path) {
  struct stat open {
  }, named{};
  return ::fstat(fd, &open) == 0 && ::stat(path.c_str(), &named) == 0 &&
         open.st_ino == named.st_ino && open.st_dev == named.st_dev;
}

}  // namespace

void refuse_a_second_run(const fs::path& run) {
  if (!fs::exists(run / "recipe.textproto")) return;
  throw ConfigError({.file = run.string(),
                     .what = "this folder already holds a run",
                     .hint = "go on with: quern resume " + run.string()});
}

RunLock::RunLock(const fs::path& run) : path_(run / "lock") {
  for (;;) {
    fd_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (fd_ < 0) {
      refuse_unwritable(path_, errno);
    }
    if (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK) return;  // no locks here
      const std::string other = holder(fd_);
      ::close(fd_);
      throw ConfigError({.file = run.string(),
                         .what = "another quern is at work in this run",
                         .actual = other,
                         .hint = "wait for its end, or stop it with SIGTERM"});
    }
    if (is_at(fd_, path_)) break;
    ::close(fd_);
  }
  const std::string name = own_name();  // for the messages of others only
  if (::ftruncate(fd_, 0) == 0 && ::pwrite(fd_, name.data(), name.size(), 0) < 0) return;
}

RunLock::~RunLock() {
  if (is_at(fd_, path_)) ::unlink(path_.c_str());
  ::close(fd_);
}

}  // namespace quern
