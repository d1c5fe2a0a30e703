// SPDX-License-Identifier: MIT
// SHA-256 digests as 64 lower-case hexadecimal digits.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

namespace quern {

// Hashes bytes as they come; digest() ends it.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;
  void update(std::string_view bytes);
  std::string digest();  // call once, last

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

std::string sha256_hex(std::string_view bytes);

// Of a whole file, read in pieces. Throws DataError when it cannot be opened, IoError when a read
// fails.
std::string sha256_of_file(const std::filesystem::path& path);

}  // namespace quern
