// SPDX-License-Identifier: MIT
// A library for LD_PRELOAD that counts the calls which change files below a folder and lets one of
// them go wrong, as SQLite's tests do (https://www.sqlite.org/testing.html, sections 3.2 and 3.3).
//   QUERN_FAULT_UNDER   the folder, absolute
//   QUERN_FAULT_AT      which call, counted from 1; 0 or unset: none
//   QUERN_FAULT_KIND    crash: the process ends instead of the call
//                       torn: it ends after half of a write     short: half of a write, no more
//                       eio, enospc: the call fails
//   QUERN_FAULT_LASTS   if set, all later calls go wrong in the same way
//   QUERN_FAULT_LOG     a file that gets a line for each call: number, name, path
// What stdio keeps in its buffers is written inside libc, unseen; std::ofstream is seen.
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>

namespace {

constexpr int kFds = 1024;
constexpr int kPathBytes = 512;

enum class Kind { none, crash, torn, short_write, eio, enospc };

struct Settings {
  char under[kPathBytes] = "";
  size_t under_size = 0;
  long at = 0;
  Kind kind = Kind::none;
  bool lasts = false;
  int log = -1;
};

// Plain zeros until first used: calls come before any constructor has run.
struct Fd {
  bool watched, written;
  char path[kPathBytes];
};
Fd fds[kFds];
std::atomic<long> calls{0};

Kind kind_named(const char* name) {
  const struct {
    const char* name;
    Kind kind;
  } all[] = {{"crash", Kind::crash},
             {"torn", Kind::torn},
             {"short", Kind::short_write},
             {"eio", Kind::eio},
             {"enospc", Kind::enospc}};
  for (const auto& k : all) {
    if (name != nullptr && strcmp(name, k.name) == 0) return k.kind;
  }
  return Kind::none;
}

const Settings& settings() {
  static const Settings made = [] {
    Settings s;
    if (const char* under = getenv("QUERN_FAULT_UNDER")) {
      snprintf(s.under, sizeof s.under, "%s", under);
      s.under_size = strlen(s.under);
    }
    if (const char* at = getenv("QUERN_FAULT_AT")) s.at = atol(at);
    s.kind = kind_named(getenv("QUERN_FAULT_KIND"));
    s.lasts = getenv("QUERN_FAULT_LASTS") != nullptr;
    if (const char* log = getenv("QUERN_FAULT_LOG")) {
      s.log =
          int(syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666));
    }
    return s;
  }();
  return made;
}

template <class F>
F next(F, const char* name) {
  return reinterpret_cast<F>(dlsym(RTLD_NEXT, name));
}
#define NEXT(function) next(&function, #function)

// The absolute form of `path`, which is relative to the folder open as `folder`.
void absolute(int folder, const char* path, char* out) {
  char base[kPathBytes] = "";
  if (path[0] != '/') {
    if (folder == AT_FDCWD) {
      if (getcwd(base, sizeof base) == nullptr) base[0] = '\0';
    } else {
      char link[64];
      snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
      const ssize_t n = readlink(link, base, sizeof base - 1);
      base[n > 0 ? n : 0] = '\0';
    }
  }
  if (snprintf(out, kPathBytes, "%s%s%s", base, base[0] != '\0' ? "/" : "", path) >= kPathBytes) {
    out[0] = '\0';
  }
}

bool below(const char* path) {
  const Settings& s = settings();
  return s.under_size > 0 && strncmp(path, s.under, s.under_size) == 0 &&
         (path[s.under_size] == '/' || path[s.under_size] == '\0');
}

[[noreturn]] void end_process() {
  syscall(SYS_exit_group, 137);
  __builtin_unreachable();
}

enum class Verdict { as_usual, fail, half };

// Counts a call. `writes`: bytes it writes, 0 for other calls. `can_fill`: it can find the disk
// full. A failing call has its errno set.
Verdict count(const char* name, const char* path, size_t writes, bool can_fill) {
  const Settings& s = settings();
  const long number = ++calls;
  if (s.log >= 0) {
    char line[kPathBytes + 64];
    const int n = snprintf(line, sizeof line, "%ld %s %s\n", number, name, path);
    syscall(SYS_write, s.log, line, size_t(n));
  }
  if (s.at == 0 || number < s.at || (number > s.at && !s.lasts)) return Verdict::as_usual;
  switch (s.kind) {
    case Kind::crash:
      end_process();
    case Kind::torn:
    case Kind::short_write:
      return writes > 1 ? Verdict::half : Verdict::as_usual;
    case Kind::eio:
      errno = EIO;
      return Verdict::fail;
    case Kind::enospc:
      if (!can_fill) return Verdict::as_usual;
      errno = ENOSPC;
      return Verdict::fail;
    case Kind::none:
      break;
  }
  return Verdict::as_usual;
}

bool watched(int fd) { return fd >= 0 && fd < kFds && fds[fd].watched; }

void watch(int fd, const char* path, bool written) {
  if (fd < 0 || fd >= kFds) return;
  fds[fd].watched = true;
  fds[fd].written = written;
  snprintf(fds[fd].path, kPathBytes, "%s", path);
}

template <class F>
int open_with(const char* name, int folder, const char* path, bool writes, bool creates, F really) {
  char full[kPathBytes];
  absolute(folder, path, full);
  if (!below(full)) return really();
  // To try whether a file is there changes nothing.
  const bool counts = writes && (creates || access(full, F_OK) == 0);
  if (counts && count(name, full, 0, creates) == Verdict::fail) return -1;
  const int fd = really();
  watch(fd, full, counts);
  return fd;
}

bool opens_for_writing(int flags) { return (flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC)) != 0; }

// A write of `size` bytes; `really(n)` writes the first n of them.
template <class F>
ssize_t write_with(const char* name, int fd, size_t size, F really) {
  if (!watched(fd)) return really(size);
  switch (count(name, fds[fd].path, size, true)) {
    case Verdict::fail:
      return -1;
    case Verdict::half: {
      const ssize_t n = really(size / 2);
      if (settings().kind == Kind::torn) end_process();
      return n;
    }
    case Verdict::as_usual:
      break;
  }
  return really(size);
}

template <class F>
int fd_call(const char* name, int fd, bool can_fill, F really) {
  if (watched(fd) && count(name, fds[fd].path, 0, can_fill) == Verdict::fail) return -1;
  return really();
}

template <class F>
int path_call(const char* name, int folder, const char* path, bool can_fill, F really) {
  char full[kPathBytes];
  absolute(folder, path, full);
  if (below(full) && count(name, full, 0, can_fill) == Verdict::fail) return -1;
  return really();
}

// What is closed is closed, even where that is said to have failed.
template <class F>
int close_with(const char* name, int fd, F really) {
  if (!watched(fd)) return really();
  const bool written = fds[fd].written;
  const bool fails = written && count(name, fds[fd].path, 0, false) == Verdict::fail;
  fds[fd].watched = false;
  const int error = errno;
  const int result = really();
  if (!fails) return result;
  errno = error;
  return -1;
}

mode_t mode_of(int flags, va_list list) {
  return (flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE ? mode_t(va_arg(list, int)) : 0;
}

}  // namespace

extern "C" {

// The same function under the name of 64-bit files: on 64-bit systems both are in use.
#define OPEN(name)                                                                             \
  int name(const char* path, int flags, ...) {                                                 \
    va_list list;                                                                              \
    va_start(list, flags);                                                                     \
    const mode_t mode = mode_of(flags, list);                                                  \
    va_end(list);                                                                              \
    static const auto real = NEXT(name);                                                       \
    return open_with("open", AT_FDCWD, path, opens_for_writing(flags), (flags & O_CREAT) != 0, \
                     [&] { return real(path, flags, mode); });                                 \
  }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                         \
  int name(int folder, const char* path, int flags, ...) {                                   \
    va_list list;                                                                            \
    va_start(list, flags);                                                                   \
    const mode_t mode = mode_of(flags, list);                                                \
    va_end(list);                                                                            \
    static const auto real = NEXT(name);                                                     \
    return open_with("open", folder, path, opens_for_writing(flags), (flags & O_CREAT) != 0, \
                     [&] { return real(folder, path, flags, mode); });                       \
  }
OPENAT(openat)
OPENAT(openat64)

// What a compiler that checks buffers makes of the four above.
int __open_2(const char* path, int flags) { return open(path, flags); }
int __open64_2(const char* path, int flags) { return open64(path, flags); }
int __openat_2(int folder, const char* path, int flags) { return openat(folder, path, flags); }
int __openat64_2(int folder, const char* path, int flags) { return openat64(folder, path, flags); }

int creat(const char* path, mode_t mode) { return open(path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char* path, mode_t mode) { return creat(path, mode); }

#define FOPEN(name)                                              \
  FILE* name(const char* path, const char* mode) {               \
    static const auto real = NEXT(name);                         \
    const bool creates = strpbrk(mode, "wa") != nullptr;         \
    const bool writes = creates || strchr(mode, '+') != nullptr; \
    FILE* file = nullptr;                                        \
    open_with("open", AT_FDCWD, path, writes, creates, [&] {     \
      file = real(path, mode);                                   \
      return file != nullptr ? fileno(file) : -1;                \
    });                                                          \
    return file;                                                 \
  }
FOPEN(fopen)
FOPEN(fopen64)

int fclose(FILE* file) {
  static const auto real = NEXT(fclose);
  return close_with("close", fileno(file), [&] { return real(file); });
}

int close(int fd) {
  static const auto real = NEXT(close);
  return close_with("close", fd, [&] { return real(fd); });
}

ssize_t write(int fd, const void* bytes, size_t size) {
  static const auto real = NEXT(write);
  return write_with("write", fd, size, [&](size_t n) { return real(fd, bytes, n); });
}

#define PWRITE(name)                                                                        \
  ssize_t name(int fd, const void* bytes, size_t size, off_t at) {                          \
    static const auto real = NEXT(name);                                                    \
    return write_with("write", fd, size, [&](size_t n) { return real(fd, bytes, n, at); }); \
  }
PWRITE(pwrite)
PWRITE(pwrite64)

ssize_t writev(int fd, const iovec* parts, int n) {
  static const auto real = NEXT(writev);
  size_t size = 0;
  for (int i = 0; i < n; ++i) size += parts[i].iov_len;
  return write_with("write", fd, size, [&](size_t allowed) -> ssize_t {
    if (allowed == size) return real(fd, parts, n);
    while (parts->iov_len == 0) ++parts;
    const size_t first = parts->iov_len;  // half of all, or less: a part is enough
    return syscall(SYS_write, fd, parts->iov_base, first < allowed ? first : allowed);
  });
}

int fsync(int fd) {
  static const auto real = NEXT(fsync);
  return fd_call("fsync", fd, true, [&] { return real(fd); });
}

int fdatasync(int fd) {
  static const auto real = NEXT(fdatasync);
  return fd_call("fsync", fd, true, [&] { return real(fd); });
}

int syncfs(int fd) noexcept {
  static const auto real = NEXT(syncfs);
  return fd_call("fsync", fd, true, [&] { return real(fd); });
}

#define FTRUNCATE(name)                                                   \
  int name(int fd, off_t size) noexcept {                                 \
    static const auto real = NEXT(name);                                  \
    return fd_call("truncate", fd, true, [&] { return real(fd, size); }); \
  }
FTRUNCATE(ftruncate)
FTRUNCATE(ftruncate64)

#define TRUNCATE(name)                                                                    \
  int name(const char* path, off_t size) noexcept {                                       \
    static const auto real = NEXT(name);                                                  \
    return path_call("truncate", AT_FDCWD, path, true, [&] { return real(path, size); }); \
  }
TRUNCATE(truncate)
TRUNCATE(truncate64)

int rename(const char* from, const char* to) noexcept {
  static const auto real = NEXT(rename);
  return path_call("rename", AT_FDCWD, to, true, [&] { return real(from, to); });
}

int renameat(int a, const char* from, int b, const char* to) noexcept {
  static const auto real = NEXT(renameat);
  return path_call("rename", b, to, true, [&] { return real(a, from, b, to); });
}

int renameat2(int a, const char* from, int b, const char* to, unsigned flags) noexcept {
  static const auto real = NEXT(renameat2);
  return path_call("rename", b, to, true, [&] { return real(a, from, b, to, flags); });
}

int mkdir(const char* path, mode_t mode) noexcept {
  static const auto real = NEXT(mkdir);
  return path_call("mkdir", AT_FDCWD, path, true, [&] { return real(path, mode); });
}

int mkdirat(int folder, const char* path, mode_t mode) noexcept {
  static const auto real = NEXT(mkdirat);
  return path_call("mkdir", folder, path, true, [&] { return real(folder, path, mode); });
}

int unlink(const char* path) noexcept {
  static const auto real = NEXT(unlink);
  return path_call("unlink", AT_FDCWD, path, false, [&] { return real(path); });
}

int unlinkat(int folder, const char* path, int flags) noexcept {
  static const auto real = NEXT(unlinkat);
  return path_call("unlink", folder, path, false, [&] { return real(folder, path, flags); });
}

int remove(const char* path) noexcept {
  static const auto real = NEXT(remove);
  return path_call("unlink", AT_FDCWD, path, false, [&] { return real(path); });
}

int rmdir(const char* path) noexcept {
  static const auto real = NEXT(rmdir);
  return path_call("unlink", AT_FDCWD, path, false, [&] { return real(path); });
}

int link(const char* from, const char* to) noexcept {
  static const auto real = NEXT(link);
  return path_call("link", AT_FDCWD, to, true, [&] { return real(from, to); });
}

int symlink(const char* from, const char* to) noexcept {
  static const auto real = NEXT(symlink);
  return path_call("link", AT_FDCWD, to, true, [&] { return real(from, to); });
}

int symlinkat(const char* from, int folder, const char* to) noexcept {
  static const auto real = NEXT(symlinkat);
  return path_call("link", folder, to, true, [&] { return real(from, folder, to); });
}

}  // extern "C"
