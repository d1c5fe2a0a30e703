// SPDX-License-Identifier: MIT
#include "quern/recipes/verify.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "quern/autograd/error.h"
#include "quern/data/manifest.h"
#include "quern/recipes/checkpoint_folder.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

template <class F>
std::string fault_in(F&& f) {
  try {
    f();
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

void verify_one_folder(const fs::path& folder, std::vector<VerifiedFile>& files) {
  Manifest manifest;
  files.push_back({folder / kManifestName, fault_in([&] { manifest = read_manifest(folder); })});
  for (const ManifestEntry& entry : manifest.files) {
    const fs::path file = folder / entry.name;
    files.push_back({file, fault_in([&] { verify_file(manifest, file); })});
  }
}

}  // namespace

std::vector<VerifiedFile> verify_path(const fs::path& path) {
  std::vector<VerifiedFile> files;
  std::error_code ignored;
  if (fs::is_regular_file(path, ignored)) {
    const fs::path folder = path.has_parent_path() ? path.parent_path() : fs::path(".");
    files.push_back({path, fault_in([&] { verify_file(read_manifest(folder), path); })});
    return files;
  }
  const std::vector<fs::path> checkpoints = list_checkpoints(path);
  for (const fs::path& checkpoint : checkpoints) verify_one_folder(checkpoint, files);
  const bool named_so = fs::is_directory(path, ignored) && step_of(path) >= 0;
  if (has_manifest(path) || named_so) verify_one_folder(path, files);
  if (!files.empty()) return files;
  throw ConfigError({.file = path.string(),
                     .what = "nothing here to verify",
                     .hint = "give a run, a checkpoint, a token file or a folder of them"});
}

bool all_good(const std::vector<VerifiedFile>& files) {
  return std::ranges::all_of(files, [](const VerifiedFile& f) { return f.fault.empty(); });
}

std::string table_of(const std::vector<VerifiedFile>& files) {
  std::string table;
  for (const VerifiedFile& f : files) {
    table += f.fault.empty() ? "ok       " + f.path.string() : "DAMAGED  " + f.fault;
    table += "\n";
  }
  return table;
}

std::string json_of(const std::vector<VerifiedFile>& files) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const VerifiedFile& f : files) {
    list.push_back({{"file", f.path.string()}, {"ok", f.fault.empty()}});
    if (!f.fault.empty()) list.back()["fault"] = f.fault;
  }
  return list.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace quern
