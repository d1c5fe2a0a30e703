// SPDX-License-Identifier: MIT
// SHA-256 from OpenSSL, as hex text.
#include "quern/data/sha256.h"

#include <openssl/evp.h>

#include <array>

#include "quern/autograd/error.h"

namespace quern {

std::string sha256_hex(std::string_view bytes) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int length = 0;
  if (EVP_Digest(bytes.data(), bytes.size(), digest.data(), &length, EVP_sha256(), nullptr) != 1) {
    throw IoError({.what = "the system's OpenSSL refuses to compute SHA-256"});
  }
  constexpr char kDigits[] = "0123456789abcdef";
  std::string hex;
  for (unsigned int i = 0; i < length; ++i) {
    hex += kDigits[digest[i] >> 4];
    hex += kDigits[digest[i] & 15];
  }
  return hex;
}

}  // namespace quern
