// SPDX-License-Identifier: MIT
#include "quern/data/file_errors.h"

#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include "quern/autograd/nearest_name.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxNames = 1000;  // looked at, so that a huge folder costs no time

// The path as given, with its last name replaced by one that is there; or what is missing above.
std::string missing_hint(const fs::path& path) {
  std::error_code ignored;
  if (fs::is_symlink(path, ignored)) return "the link leads nowhere; mend it or give another file";
  const fs::path folder = path.has_parent_path() ? path.parent_path() : fs::path(".");
  if (!fs::exists(folder, ignored)) return "there is no folder " + folder.string();
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    if (names.size() == kMaxNames) break;
    names.push_back(entry.path().filename().string());
  }
  const std::string near = nearest_name(path.filename().string(), names);
  if (near.empty()) return "check the path; a relative one begins in the current folder";
  return "did you mean " + (path.has_parent_path() ? folder / near : fs::path(near)).string() + "?";
}

}  // namespace

bool is_wrong_path(int error) {
  return error == ENOENT || error == ENOTDIR || error == EISDIR || error == ELOOP ||
         error == ENAMETOOLONG;
}

ErrorFacts unreadable(const fs::path& path, int error) {
  ErrorFacts facts{.file = path.string()};
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      facts.what = "no such file";
      facts.hint = missing_hint(path);
      break;
    case EISDIR:
      facts.what = "is a folder";
      facts.expected = "a file";
      facts.hint = "name a file in it";
      break;
    case ELOOP:
      facts.what = "a link that leads back to itself";
      facts.hint = "mend the link or give another file";
      break;
    case ENAMETOOLONG:
      facts.file = facts.file.substr(0, 80) + "...";
      facts.what = "too long for a file name";
      facts.hint = "check the path";
      break;
    case EACCES:
    case EPERM:
      facts.what = "may not be read by this user";
      facts.hint = "chmod +r allows it; so must all folders above";
      break;
    default:
      facts.what = std::string("cannot be read: ") + std::strerror(error);
      facts.hint = "check the disk, or copy the file elsewhere";
  }
  return facts;
}

ErrorFacts unwritable(const fs::path& path, int error) {
  ErrorFacts facts{.file = path.string(),
                   .what = std::string("cannot be written: ") + std::strerror(error)};
  switch (error) {
    case ENOSPC:
    case EDQUOT:
      facts.hint = "free some space, or choose another disk";
      break;
    case EFBIG:
      facts.hint = "`ulimit -f` or the file system bounds the size of files";
      break;
    case EEXIST:
    case ENOTDIR:
      facts.what = "cannot be written: a part of this path is a file, not a folder";
      facts.hint = "choose another path";
      break;
    case EACCES:
    case EPERM:
      facts.hint = "chmod +w on the folder above allows it; or choose another path";
      break;
    default:
      facts.hint = "check the disk, or choose another path";
  }
  return facts;
}

}  // namespace quern
