// SPDX-License-Identifier: MIT
// What saves need of a disk: that files lock, sync and are renamed, and how long that takes.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "quern/data/file_descriptor.h"
#include "quern/recipes/doctor.h"
#include "quern/recipes/internal/units.h"

namespace quern {
namespace {

namespace fs = std::filesystem;
using Status = Diagnosis::Status;

constexpr std::size_t kProbeBytes = 1 << 20;
constexpr i64 kLittleSpace = i64(2) << 30;
constexpr double kSlowSync = 0.2;  // seconds

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// A folder of our own in `parent`, gone at the end.
class ProbeFolder {
 public:
  explicit ProbeFolder(const fs::path& parent) {
    std::string name = (parent / ".quern-doctor-XXXXXX").string();
    if (::mkdtemp(name.data()) != nullptr) path_ = name;
  }
  ~ProbeFolder() {
    std::error_code ignored;
    if (!path_.empty()) fs::remove_all(path_, ignored);
  }
  ProbeFolder(const ProbeFolder&) = delete;
  ProbeFolder& operator=(const ProbeFolder&) = delete;
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

struct FileSystem {
  const char* name;
  const char* advice;  // null: fine
};

// By the magic numbers of statfs(2).
FileSystem file_system_of(long type) {
  switch (static_cast<unsigned long>(type) & 0xFFFFFFFFul) {
    case 0x01021994:
      return {"tmpfs", "it is memory: what is saved there is lost when the machine stops"};
    case 0x6969:
      return {"NFS", "saves depend on its server; prefer a local disk, and copy"};
    case 0xFF534D42:
    case 0xFE534D42:
      return {"SMB", "saves depend on its server; prefer a local disk, and copy"};
    case 0x65735546:
      return {"FUSE", "whether it keeps what was synced depends on what lies behind it"};
    case 0xEF53:
      return {"ext4", nullptr};
    case 0x58465342:
      return {"XFS", nullptr};
    case 0x9123683E:
      return {"btrfs", nullptr};
    case 0x2FC12FC1:
      return {"ZFS", nullptr};
    case 0x794C7630:
      return {"overlay", nullptr};
    case 0x0BD00BD0:
      return {"Lustre", nullptr};
    default:
      return {"of a kind not known to Quern", nullptr};
  }
}

std::optional<Diagnosis> space_of(const fs::path& folder) {
  struct statfs facts {};
  if (::statfs(folder.c_str(), &facts) != 0) return std::nullopt;
  const i64 free = i64(facts.f_bavail) * i64(facts.f_bsize);
  const FileSystem kind = file_system_of(facts.f_type);
  Diagnosis line{"disk", Status::ok,
                 std::string(kind.name) + ", " + internal::bytes_text(std::size_t(free)) + " free",
                 ""};
  if (kind.advice != nullptr) line.status = Status::warn, line.advice = kind.advice;
  if (free < kLittleSpace) {
    line.status = Status::warn;
    line.advice = "a checkpoint takes 12 bytes for each parameter: see `quern train --dry-run`";
  }
  return line;
}

Diagnosis locks_in(const fs::path& folder) {
  const FileDescriptor first(folder / "lock", O_RDWR | O_CREAT), second(folder / "lock", O_RDWR);
  if (first && second && ::flock(first.get(), LOCK_EX | LOCK_NB) == 0) {
    if (::flock(second.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
      return {"file locks", Status::ok, "kept", ""};
    }
    return {"file locks", Status::warn, "given twice",
            "two runs in one folder would not notice each other: take care to start one"};
  }
  return {"file locks", Status::warn, std::strerror(errno),
          "HDF5 wants them: set HDF5_USE_FILE_LOCKING=FALSE, and start one run in a folder"};
}

// Seconds to write a file and have it on the disk; nothing when that fails.
std::optional<double> synced_write(const fs::path& file) {
  const std::vector<char> bytes(kProbeBytes, 'q');
  const FileDescriptor out(file, O_WRONLY | O_CREAT | O_TRUNC);
  if (!out || ::write(out.get(), bytes.data(), bytes.size()) != ssize_t(bytes.size())) {
    return std::nullopt;
  }
  const double begin = seconds_now();
  if (::fsync(out.get()) != 0) return std::nullopt;
  return seconds_now() - begin;
}

Diagnosis syncs_in(const fs::path& folder) {
  std::vector<double> times;
  for (int i = 0; i < 5; ++i) {
    const std::optional<double> seconds = synced_write(folder / "sync");
    if (!seconds) {
      return {"fsync", Status::bad, std::strerror(errno),
              "a run could not save here: another disk"};
    }
    times.push_back(*seconds);
    if (*seconds > 1) break;
  }
  std::ranges::sort(times);
  const double middle = times[times.size() / 2];
  const std::string found = internal::fixed_text(middle * 1e3, 1) + " ms for 1 MB";
  if (middle < kSlowSync) return {"fsync", Status::ok, found, ""};
  return {"fsync", Status::warn, found, "saves will take long: a larger train.checkpoint_every"};
}

Diagnosis renames_in(const fs::path& folder) {
  const bool made = synced_write(folder / "new").has_value();
  const FileDescriptor parent(folder, O_RDONLY | O_DIRECTORY);
  std::error_code error;
  fs::create_directory(folder / "step.tmp", error);
  if (!error) fs::rename(folder / "step.tmp", folder / "step", error);
  if (!error && made) fs::rename(folder / "new", folder / "sync", error);  // over an old file
  if (error) {
    return {"rename", Status::bad, error.message(), "a run could not save here: another disk"};
  }
  if (!parent || ::fsync(parent.get()) != 0) {
    return {"rename", Status::warn, "works, but the folder cannot be synced",
            "after a power cut the newest checkpoint may be missing: prefer another disk"};
  }
  return {"rename", Status::ok, "works, and the folder can be synced", ""};
}

}  // namespace

std::vector<Diagnosis> diagnose_disk(const fs::path& folder) {
  std::error_code ignored;
  fs::path existing = fs::absolute(folder).lexically_normal();
  while (!fs::is_directory(existing, ignored) && existing.has_relative_path()) {
    existing = existing.parent_path();
  }
  const ProbeFolder probe(existing);
  if (probe.path().empty()) {
    return {{"disk", Status::bad, existing.string() + ": " + std::strerror(errno),
             "a folder for runs that can be written"}};
  }
  std::vector<Diagnosis> lines;
  if (const auto space = space_of(existing)) lines.push_back(*space);
  lines.push_back(locks_in(probe.path()));
  lines.push_back(syncs_in(probe.path()));
  lines.push_back(renames_in(probe.path()));
  return lines;
}

}  // namespace quern
