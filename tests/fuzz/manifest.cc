// SPDX-License-Identifier: MIT
// MANIFEST. "@HASH@" in the input stands for the SHA-256 of the lines above its line, which no
// mutation would ever hit.
#include "quern/data/manifest.h"

#include "quern/data/sha256.h"
#include "tests/fuzz/guard.h"

using namespace quern;

namespace {

std::string with_hash(std::string text) {
  constexpr std::string_view kMark = "@HASH@";
  const std::size_t at = text.find(kMark);
  if (at == std::string::npos) return text;
  const std::size_t line = at == 0 ? 0 : text.rfind('\n', at - 1) + 1;  // npos + 1 is 0
  const std::string hash = sha256_hex(std::string_view(text).substr(0, line));
  return text.replace(at, kMark.size(), hash);
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text = with_hash(std::string(fuzz::text_of(data, size)));
  const auto body = [&] {
    const Manifest manifest = parse_manifest(text, "MANIFEST");
    fuzz::require(manifest_text(manifest) == text, "only what would be written is taken");
    for (const ManifestEntry& file : manifest.files) {
      fuzz::require(manifest.find(file.name) == &file, "each file is found");
      fuzz::require(file.name.find('/') == std::string::npos, "no file is in another folder");
    }
  };
  fuzz::guarded(text.size(), body, ExitCode::kIntegrity);
  return 0;
}
