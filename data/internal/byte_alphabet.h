// SPDX-License-Identifier: MIT
// The GPT-2 byte alphabet, in which tokenizer.json spells tokens: each byte as a printable
// character. Bytes 33-126, 161-172 and 174-255 stand for themselves, the other 68, in rising order,
// are U+0100 and on.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace quern {

// `bytes` spelt in the alphabet, as UTF-8.
std::string to_byte_alphabet(std::string_view bytes);

// The bytes that `text` spells; nothing when it has a character that is not in the alphabet.
std::optional<std::string> from_byte_alphabet(std::string_view text);

}  // namespace quern
