// SPDX-License-Identifier: MIT
// SHA256SUMS, the file that `sha256sum --check` reads: nothing of a checkpoint reaches libhdf5,
// which damaged bytes can crash, before its hash is found to be the one written down when it was
// saved.
#pragma once

#include <filesystem>

namespace quern {

// Writes down the hashes of all files in `folder`, durably. Throws IoError.
void write_checksums(const std::filesystem::path& folder);

// Throws CheckpointError, naming the file, when it is missing or not what was saved, or when
// SHA256SUMS beside it does not name it.
void verify_checksum(const std::filesystem::path& file);

bool has_checksums(const std::filesystem::path& folder);

}  // namespace quern
