// SPDX-License-Identifier: MIT
// MANIFEST, the hashes of the files in a folder that Quern wrote: checkpoints and prepared corpora.
//
//   # quern manifest 1
//   <64 hexadecimal digits>  model.h5
//   <64 hexadecimal digits>  optimizer.h5
//   # sha256 <64 hexadecimal digits>
//
// The last line is the SHA-256 of the lines above it, so that a list cut short does not pass for a
// whole one. `sha256sum --check MANIFEST` checks the files: to it, lines with # are remarks.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace quern {

inline constexpr const char* kManifestName = "MANIFEST";

// Letters, digits, '.', '_' and '-'; no folders, nothing hidden, nothing that looks like an option,
// and not the manifest itself.
bool is_plain_file_name(std::string_view text);

struct ManifestEntry {
  std::string name;    // a plain one
  std::string sha256;  // 64 lower-case hexadecimal digits

  bool operator==(const ManifestEntry&) const = default;
};

struct Manifest {
  std::vector<ManifestEntry> files;  // by name, each once

  const ManifestEntry* find(std::string_view name) const;  // null: not listed
};

std::string manifest_text(const Manifest& manifest);

// Bytes of any origin; `file_name` is for the messages. Throws IntegrityError, with line and
// column, at anything manifest_text() would not have written, and where the last line's hash is not
// that of the others.
Manifest parse_manifest(std::string_view text, const std::string& file_name);

bool has_manifest(const std::filesystem::path& folder);
// Throws IntegrityError when there is none or it is not whole; IoError when reading fails.
Manifest read_manifest(const std::filesystem::path& folder);
// Durably, or not at all. Throws IoError.
void write_manifest(const std::filesystem::path& folder, const Manifest& manifest);

// The hashes of these files in `folder`, as they are now. Throws DataError or IoError.
Manifest hash_files(const std::filesystem::path& folder, const std::vector<std::string>& names);

// Throws IntegrityError that names the file when it is missing, not listed, or not what is listed;
// IoError when reading fails.
void verify_file(const Manifest& manifest, const std::filesystem::path& file);
// Of a folder, the manifest and every file it lists; the manifest comes back.
Manifest verify_folder(const std::filesystem::path& folder);

}  // namespace quern
