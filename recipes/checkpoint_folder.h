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
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "quern/autograd/kernels/types.h"

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

// Makes the checkpoint of a step: `fill` writes `files` into the folder it is given; they are
// hashed, made durable, read back, and get their name at once. `bytes` is what they need at most,
// looked for before anything is written. A whole checkpoint of the step with the same bytes stays
// as it is. Throws IoError; whatever was there before is then untouched, or the new one is whole.
void publish_checkpoint(const std::filesystem::path& run, i64 step, i64 bytes,
                        const std::vector<std::string>& files,
                        const std::function<void(const std::filesystem::path&)>& fill);

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
