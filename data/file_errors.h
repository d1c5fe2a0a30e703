// SPDX-License-Identifier: MIT
// Why a file cannot be read or written, what to do about it, and whose fault it is: a wrong path to
// read is the user's, all else the file system's.
#pragma once

#include <filesystem>

#include "quern/autograd/error.h"

namespace quern {

// `error` is an errno. The hint is what to do; for a missing file, what it may be called.
ErrorFacts unreadable(const std::filesystem::path& path, int error);

// Whether there is no such file, or something that is no file: exit code 2, else 3.
bool is_wrong_path(int error);

// Throws E for a wrong path, else IoError.
template <class E>
[[noreturn]] void refuse_unreadable(const std::filesystem::path& path, int error) {
  if (is_wrong_path(error)) throw E(unreadable(path, error));
  throw IoError(unreadable(path, error));
}

// Always an IoError.
ErrorFacts unwritable(const std::filesystem::path& path, int error);
[[noreturn]] inline void refuse_unwritable(const std::filesystem::path& path, int error) {
  throw IoError(unwritable(path, error));
}

}  // namespace quern
