// SPDX-License-Identifier: MIT
// The checkpoints of a run as folders: published whole or not at all, found again by their hashes,
// deleted only when newer ones are known to be good. What their files hold is checkpoint.h's
// matter.
//
//   checkpoints/step-000400/   its files and their MANIFEST
//   checkpoints/latest         the name of the newest; a hint for people, which nothing reads
//   checkpoints/*.tmp          what an interrupted save has left; the next save removes it
#pragma once

#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "quern/autograd/kernels/types.h"
#include "quern/data/manifest.h"

namespace quern {

std::filesystem::path checkpoint_path(const std::filesystem::path& run, i64 step);
// The checkpoints of a run, by step, oldest first; damaged ones too.
std::vector<std::filesystem::path> list_checkpoints(const std::filesystem::path& run);
i64 step_of(const std::filesystem::path& checkpoint);

// Whether its MANIFEST and files verify.
bool is_whole(const std::filesystem::path& checkpoint);

// A checkpoint passed over, and why: its files are not what was saved.
struct SkippedCheckpoint {
  std::filesystem::path folder;
  std::string why;
};

struct VerifiedCheckpoint {
  std::filesystem::path folder;
  std::vector<SkippedCheckpoint> skipped;  // newer ones
};

// The newest checkpoint whose MANIFEST and files verify; nothing when the run has none at all.
// Throws CheckpointError, naming the file at fault in the newest, when none verifies.
std::optional<VerifiedCheckpoint> newest_checkpoint(const std::filesystem::path& run);

// One line for each on stderr.
void warn_of_skipped(const std::vector<SkippedCheckpoint>& skipped);

// Where the files of a checkpoint are written before it has its name.
std::filesystem::path pending_path(const std::filesystem::path& run, i64 step);

// A checkpoint on its way to its name: a folder at pending_path(), to be filled by one process or
// several. Dropped unpublished, it takes the folder along and leaves all else as it was.
class PendingCheckpoint {
 public:
  // Makes the folder, empty. `bytes` is what its files need at most, looked for beforehand. Throws
  // IoError.
  PendingCheckpoint(std::filesystem::path run, i64 step, i64 bytes);
  ~PendingCheckpoint();
  PendingCheckpoint(const PendingCheckpoint&) = delete;
  PendingCheckpoint& operator=(const PendingCheckpoint&) = delete;

  // Gives the folder its name at once, durably; `manifest` is of the files in it. A whole
  // checkpoint of the step with the same files stays as it is. Throws IoError or IntegrityError;
  // whatever was there before is then untouched, or the new one is whole.
  void publish(const Manifest& manifest);

 private:
  std::filesystem::path run_;
  i64 step_;
};

// The hashes of durable files in a folder that have just been written, each read twice, at last
// from the disk as far as the system allows. Throws IntegrityError where that differs, and as
// hash_files() does.
Manifest seal_files(const std::filesystem::path& folder, const std::vector<std::string>& names);

// What stays of the checkpoints up to the newest.
struct Retention {
  i64 last = 2;             // this many that verify
  i64 every = 0;            // and those of steps that are multiples of this; 0: none
  std::optional<i64> best;  // and this step
  std::set<i64> verified;   // steps known to verify; pruning adds to them
};

// Deletes what `retention` does not keep, and what interrupted saves have left. `newest` must be a
// verified step; later ones, which can only be damaged, stay. Follows no symbolic link. What
// cannot be deleted is left to the next call.
void prune_checkpoints(const std::filesystem::path& run, i64 newest, Retention& retention);

}  // namespace quern
