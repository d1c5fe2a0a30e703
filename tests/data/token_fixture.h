// SPDX-License-Identifier: MIT
// Token files in which every token is its own place, so that a batch tells where it came from.
#pragma once

#include <memory>
#include <vector>

#include "quern/data/token_file.h"
#include "tests/support/temp_dir.h"

namespace quern {

// Documents of these lengths; token i is i.  sources: of the documents (all 0 when empty).
inline std::shared_ptr<const TokenFile> numbered_tokens(const TempDir& dir,
                                                        const std::vector<i64>& lengths,
                                                        std::vector<i32> sources = {}) {
  TokenData data{.tokenizer_sha256 = "none", .vocab_size = 1 << 20};
  for (const i64 length : lengths) {
    for (i64 i = 0; i < length; ++i) data.tokens.push_back(i32(data.tokens.size()));
    data.document_offsets.push_back(i64(data.tokens.size()));
  }
  sources.resize(lengths.size());
  data.document_source = sources;
  for (const i32 source : sources) {
    while (i32(data.sources.size()) <= source) data.sources.push_back({"s", 1, ""});
  }
  write_token_file(dir / "numbered.h5", data);
  return std::make_shared<const TokenFile>(dir / "numbered.h5");
}

}  // namespace quern
