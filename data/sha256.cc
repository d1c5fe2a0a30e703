// SPDX-License-Identifier: MIT
#include "quern/data/sha256.h"

#include <openssl/evp.h>

#include <array>
#include <cerrno>
#include <fstream>
#include <vector>

#include "quern/autograd/error.h"
#include "quern/data/file_errors.h"

namespace quern {
namespace {

void check(int ok) {
  if (ok != 1) throw IoError({.what = "OpenSSL does not offer SHA-256"});
}

}  // namespace

struct Sha256::Context {
  Context() : evp(EVP_MD_CTX_new()) {}
  ~Context() { EVP_MD_CTX_free(evp); }
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;
  EVP_MD_CTX* evp;
};

Sha256::Sha256() : context_(std::make_unique<Context>()) {
  check(context_->evp != nullptr);
  check(EVP_DigestInit_ex(context_->evp, EVP_sha256(), nullptr));
}

Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;

void Sha256::update(std::string_view bytes) {
  check(EVP_DigestUpdate(context_->evp, bytes.data(), bytes.size()));
}

std::string Sha256::digest() {
  std::array<unsigned char, EVP_MAX_MD_SIZE> raw{};
  unsigned int size = 0;
  check(EVP_DigestFinal_ex(context_->evp, raw.data(), &size));
  std::string hex;
  for (unsigned int i = 0; i < size; ++i) {
    hex += "0123456789abcdef"[raw[i] >> 4];
    hex += "0123456789abcdef"[raw[i] & 15];
  }
  return hex;
}

std::string sha256_hex(std::string_view bytes) {
  Sha256 hash;
  hash.update(bytes);
  return hash.digest();
}

std::string sha256_of_file(const std::filesystem::path& path) {
  if (std::filesystem::is_directory(path)) refuse_unreadable<DataError>(path, EISDIR);
  std::ifstream in(path, std::ios::binary);
  if (!in) refuse_unreadable<DataError>(path, errno);
  Sha256 hash;
  std::vector<char> piece(size_t(1) << 20);
  while (in) {
    in.read(piece.data(), std::streamsize(piece.size()));
    hash.update({piece.data(), size_t(in.gcount())});
  }
  if (in.bad()) refuse_unreadable<DataError>(path, errno);
  return hash.digest();
}

}  // namespace quern
