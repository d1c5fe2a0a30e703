// SPDX-License-Identifier: MIT
#include "quern/data/text_file.h"

#include <gtest/gtest.h>

#include "quern/autograd/error.h"
#include "quern/data/sha256.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

TEST(TextFile, WritesWholeAndReadsBounded) {
  const fs::path folder = fs::path(::testing::TempDir()) / "quern_text_file";
  fs::remove_all(folder);
  fs::create_directories(folder);
  const fs::path path = folder / "a.txt";
  write_text_file(path, "first");
  write_text_file(path, std::string("se\0cond", 7));
  EXPECT_EQ(read_text_file(path, 7), std::string("se\0cond", 7));
  EXPECT_EQ(std::distance(fs::directory_iterator(folder), {}), 1) << "a temporary file is left";
  EXPECT_THROW(read_text_file(path, 6), DataError);
  EXPECT_THROW(read_text_file(folder, 6), DataError);
  EXPECT_THROW(read_text_file(folder / "none", 6), DataError);
  EXPECT_THROW(write_text_file(folder / "no" / "b.txt", "x"), IoError);
}

// FIPS 180-2, appendix B.1, and the empty message.
TEST(Sha256, KnownDigests) {
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256_hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

}  // namespace
}  // namespace quern
