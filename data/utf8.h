// SPDX-License-Identifier: MIT
// Well-formed UTF-8, and what is done about bytes that are none.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "quern/autograd/kernels/types.h"

namespace quern {

enum class InvalidUtf8 {
  keep,     // as they are: byte-level tokens can spell anything
  replace,  // each byte by U+FFFD
  refuse,
};

const char* name_of(InvalidUtf8 policy);
std::optional<InvalidUtf8> invalid_utf8_named(std::string_view name);

// The offset of the first byte from `begin` on that is no part of well-formed UTF-8: overlong
// forms, surrogates and what is beyond U+10FFFF included. npos if there is none.
size_t find_invalid_utf8(std::string_view text, size_t begin = 0);

// Bytes that are no part of well-formed UTF-8.
i64 count_invalid_utf8(std::string_view text);

// The offset, from `begin` on, of a \uXXXX of JSON that is half of a character without the other
// half; npos if there is none.
size_t find_lone_surrogate(std::string_view json, size_t begin = 0);

// Each of these bytes replaced by U+FFFD.
std::string with_invalid_utf8_replaced(std::string_view text);

}  // namespace quern
