// SPDX-License-Identifier: MIT
// Whole small files in and out of memory.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>

namespace quern {

// The bytes of a file. Throws DataError when it is absent, no regular file or longer than
// max_bytes, IoError when it cannot be read.
std::string read_text_file(const std::filesystem::path& path, std::size_t max_bytes);

// Writes beside the target, syncs, renames: a killed writer leaves the old file or the new one.
// Throws IoError.
void write_text_file(const std::filesystem::path& path, std::string_view text);

}  // namespace quern
