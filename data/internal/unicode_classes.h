// SPDX-License-Identifier: MIT
// What the splitting rules ask about a character, and strict decoding of UTF-8.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace quern::internal {

// Sets of characters; one may be in several. A byte that is not part of valid UTF-8 is in none.
using Classes = std::uint16_t;
inline constexpr Classes kLetter = 1;       // \p{L}
inline constexpr Classes kMark = 2;         // \p{M}
inline constexpr Classes kNumber = 4;       // \p{N}
inline constexpr Classes kPunctuation = 8;  // \p{P}
inline constexpr Classes kSymbol = 16;      // \p{S}
inline constexpr Classes kSpace = 32;       // \s: White_Space, U+0085 included
inline constexpr Classes kNewline = 64;     // [\r\n]
inline constexpr Classes kAsciiLetter = 128;
inline constexpr Classes kV3Cjk = 256;      // DeepSeek-V3's [一-龥぀-ゟ゠-ヿ]
inline constexpr Classes kLlmLetter = 512;  // DeepSeek-LLM's letters, ...
inline constexpr Classes kLlmMark = 1024;   // ... its punctuation, which has the letters of ASCII
inline constexpr Classes kLlmCjk = 2048;    // ... and its [一-龥ࠀ-一가-퟿]

struct Character {
  Classes classes;
  std::uint8_t bytes;
};

// DeepSeek-LLM's two sets as its expressions spell them, without the brackets.
std::string deepseek_llm_letters();
std::string deepseek_llm_marks();

Classes classes_of(std::int32_t code_point);               // without kLlm...
Classes classes_of_deepseek_llm(std::int32_t code_point);  // kNumber, kSpace, kNewline, kLlm...

// The code point that `text` begins with, and its length; -1 and 1 where it is not UTF-8.
struct CodePoint {
  std::int32_t value;
  std::uint8_t bytes;
};
CodePoint decode(std::string_view text);

extern const std::array<Classes, 128> kAsciiClasses;

// The character at `at`, which lies inside the text.
inline Character read_character(std::string_view text, std::size_t at) {
  const auto byte = static_cast<unsigned char>(text[at]);
  if (byte < 128) return {kAsciiClasses[byte], 1};
  const CodePoint c = decode(text.substr(at));
  return {c.value < 0 ? Classes(0) : classes_of(c.value), c.bytes};
}

// Where the white space at the beginning of the text ends, and that at its end begins.
std::size_t end_of_leading_space(std::string_view text);
std::size_t begin_of_trailing_space(std::string_view text);

Character read_deepseek_llm_character(std::string_view text, std::size_t at);

}  // namespace quern::internal
