// SPDX-License-Identifier: MIT
#include "quern/data/manifest.h"

#include <algorithm>
#include <cctype>

#include "quern/autograd/error.h"
#include "quern/data/atomic_file.h"
#include "quern/data/sha256.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kFirstLine = "# quern manifest 1";
constexpr std::string_view kLastLine = "# sha256 ";
constexpr size_t kMaxBytes = size_t(1) << 20;
constexpr size_t kMaxName = 255;  // what file systems take
constexpr size_t kHashDigits = 64;

bool is_hash(std::string_view text) {
  return text.size() == kHashDigits &&
         text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

bool is_name_char(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '.' || c == '_' || c == '-';
}

// Reads a manifest line by line.
class Parser {
 public:
  Parser(std::string_view text, const std::string& file) : text_(text), file_(file) {}

  Manifest parse() {
    if (text_.size() > kMaxBytes) {
      throw IntegrityError({.file = file_,
                            .what = "is too large for a manifest",
                            .expected = "at most " + std::to_string(kMaxBytes) + " bytes",
                            .actual = std::to_string(text_.size())});
    }
    if (next_line() != kFirstLine) {
      refuse(0, "not a manifest of this version", "'" + std::string(kFirstLine) + "'");
    }
    Manifest manifest;
    for (;;) {
      const size_t before = at_;
      const std::string_view line = next_line();
      if (line.starts_with(kLastLine)) {
        check_end(line.substr(kLastLine.size()), text_.substr(0, before));
        return manifest;
      }
      add(line, manifest);
    }
  }

 private:
  std::string_view next_line() {
    ++number_;
    const size_t end = text_.find('\n', at_);
    if (end == std::string_view::npos) {
      refuse(text_.size() - at_, "ends too early", "a line '# sha256 ...' at the end");
    }
    const std::string_view line = text_.substr(at_, end - at_);
    at_ = end + 1;
    return line;
  }

  void add(std::string_view line, Manifest& manifest) const {
    const std::string_view hash = line.substr(0, std::min(kHashDigits, line.size()));
    if (!is_hash(hash)) refuse(0, "", "64 hexadecimal digits in lower case");
    if (line.substr(kHashDigits, 2) != "  ") refuse(kHashDigits, "", "two spaces");
    const std::string_view name = line.substr(kHashDigits + 2);
    if (!is_plain_file_name(name)) {
      refuse(kHashDigits + 2, "", "a file name of letters, digits, '.', '_' and '-'");
    }
    if (!manifest.files.empty() && name <= manifest.files.back().name) {
      const bool again = manifest.find(name) != nullptr;
      refuse(kHashDigits + 2, again ? "a file listed twice" : "", "names in rising order");
    }
    manifest.files.push_back({std::string(name), std::string(hash)});
  }

  void check_end(std::string_view hash, std::string_view above) const {
    if (!is_hash(hash)) refuse(kLastLine.size(), "", "64 hexadecimal digits in lower case");
    if (at_ != text_.size()) refuse(kLastLine.size() + kHashDigits, "", "nothing after this line");
    const std::string found = sha256_hex(above);
    if (found != hash) {
      throw IntegrityError({.file = file_,
                            .line = number_,
                            .column = int(kLastLine.size()) + 1,
                            .what = "damaged: the SHA-256 of the lines above",
                            .expected = std::string(hash.substr(0, 12)),
                            .actual = found.substr(0, 12)});
    }
  }

  // `offset` is of the byte in the line.
  [[noreturn]] void refuse(size_t offset, const std::string& what,
                           const std::string& expected) const {
    throw IntegrityError({.file = file_,
                          .line = number_,
                          .column = int(offset) + 1,
                          .what = what,
                          .expected = expected});
  }

  std::string_view text_;
  const std::string& file_;
  size_t at_ = 0;  // where the next line begins
  int number_ = 0;
};

}  // namespace

bool is_plain_file_name(std::string_view text) {
  return !text.empty() && text.size() <= kMaxName && std::ranges::all_of(text, is_name_char) &&
         text[0] != '.' && text[0] != '-' && text != kManifestName;
}

const ManifestEntry* Manifest::find(std::string_view name) const {
  const auto found = std::ranges::lower_bound(files, name, {}, &ManifestEntry::name);
  return found != files.end() && found->name == name ? &*found : nullptr;
}

std::string manifest_text(const Manifest& manifest) {
  std::string text = std::string(kFirstLine) + "\n";
  for (const ManifestEntry& file : manifest.files) text += file.sha256 + "  " + file.name + "\n";
  return text + std::string(kLastLine) + sha256_hex(text) + "\n";
}

Manifest parse_manifest(std::string_view text, const std::string& file_name) {
  return Parser(text, file_name).parse();
}

bool has_manifest(const fs::path& folder) {
  std::error_code ignored;
  return fs::exists(folder / kManifestName, ignored);
}

Manifest read_manifest(const fs::path& folder) {
  const fs::path path = folder / kManifestName;
  if (!has_manifest(folder)) {
    throw IntegrityError(
        {.file = folder.string(),
         .what = std::string("has no ") + kManifestName + ", so its files cannot be checked"});
  }
  try {
    return parse_manifest(read_file(path, i64(kMaxBytes)), path.string());
  } catch (const DataError& error) {
    throw IntegrityError(error.facts());
  }
}

void write_manifest(const fs::path& folder, const Manifest& manifest) {
  const std::string text = manifest_text(manifest);
  parse_manifest(text, (folder / kManifestName).string());  // what cannot be read is not written
  write_file_atomically(folder / kManifestName, text);
}

Manifest hash_files(const fs::path& folder, const std::vector<std::string>& names) {
  Manifest manifest;
  for (const std::string& name : names) {
    manifest.files.push_back({name, sha256_of_file(folder / name)});
  }
  std::ranges::sort(manifest.files, {}, &ManifestEntry::name);
  return manifest;
}

void verify_file(const Manifest& manifest, const fs::path& file) {
  const ManifestEntry* entry = manifest.find(file.filename().string());
  if (entry == nullptr) {
    throw IntegrityError(
        {.file = file.string(),
         .what = std::string("is not listed in the ") + kManifestName + " beside it"});
  }
  std::string found;
  try {
    found = sha256_of_file(file);
  } catch (const DataError& error) {  // missing
    throw IntegrityError(error.facts());
  }
  if (found == entry->sha256) return;
  throw IntegrityError({.file = file.string(),
                        .what = "damaged: its SHA-256",
                        .expected = entry->sha256.substr(0, 12),
                        .actual = found.substr(0, 12)});
}

Manifest verify_folder(const fs::path& folder) {
  Manifest manifest = read_manifest(folder);
  for (const ManifestEntry& file : manifest.files) verify_file(manifest, folder / file.name);
  return manifest;
}

}  // namespace quern
