// SPDX-License-Identifier: MIT
// SHA-256, by which files, sources and tokenizers are told apart.
#pragma once

#include <string>
#include <string_view>

namespace quern {

// The digest of `bytes` as 64 lower-case hex digits.
std::string sha256_hex(std::string_view bytes);

}  // namespace quern
