// SPDX-License-Identifier: MIT
// Both directions of the byte alphabet; all its characters have one or two bytes of UTF-8.
#include "quern/data/internal/byte_alphabet.h"

#include <array>
#include <cstdint>

namespace quern {
namespace {

struct Alphabet {
  std::array<std::uint16_t, 256> code_points{};
  std::array<std::int16_t, 256 + 68> bytes{};  // -1: not in the alphabet
};

constexpr Alphabet kAlphabet = [] {
  Alphabet a;
  for (auto& byte : a.bytes) byte = -1;
  int spare = 256;
  for (int b = 0; b < 256; ++b) {
    const bool printable = (b >= 33 && b <= 126) || (b >= 161 && b != 173);
    const int code_point = printable ? b : spare++;
    a.code_points[b] = static_cast<std::uint16_t>(code_point);
    a.bytes[code_point] = static_cast<std::int16_t>(b);
  }
  return a;
}();

}  // namespace

std::string to_byte_alphabet(std::string_view bytes) {
  std::string text;
  for (const char byte : bytes) {
    const int c = kAlphabet.code_points[static_cast<unsigned char>(byte)];
    if (c < 128) {
      text += static_cast<char>(c);
    } else {
      text += static_cast<char>(0xc0 | (c >> 6));
      text += static_cast<char>(0x80 | (c & 0x3f));
    }
  }
  return text;
}

std::optional<std::string> from_byte_alphabet(std::string_view text) {
  std::string bytes;
  for (std::size_t i = 0; i < text.size(); ++i) {
    int c = static_cast<unsigned char>(text[i]);
    if (c >= 128) {
      if (c < 0xc2 || c > 0xc5 || i + 1 == text.size()) return std::nullopt;
      const int next = static_cast<unsigned char>(text[++i]);
      if ((next & 0xc0) != 0x80) return std::nullopt;
      c = (c & 0x1f) << 6 | (next & 0x3f);
    }
    if (c >= static_cast<int>(kAlphabet.bytes.size()) || kAlphabet.bytes[c] < 0) {
      return std::nullopt;
    }
    bytes += static_cast<char>(kAlphabet.bytes[c]);
  }
  return bytes;
}

}  // namespace quern
