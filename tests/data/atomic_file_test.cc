// SPDX-License-Identifier: MIT
#include "quern/data/atomic_file.h"

#include "quern/autograd/error.h"
#include "quern/data/sha256.h"
#include "tests/support/temp_dir.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

TEST(AtomicFile, WritesAndReplaces) {
  const TempDir dir;
  write_file_atomically(dir / "a/b.txt", "one");
  EXPECT_EQ(read_file(dir / "a/b.txt", 100), "one");
  write_file_atomically(dir / "a/b.txt", "two");
  EXPECT_EQ(read_file(dir / "a/b.txt", 100), "two");
  EXPECT_FALSE(fs::exists(dir / "a/b.txt.tmp"));
}

TEST(AtomicFile, ReplacesWhatAKilledWriterLeft) {
  const TempDir dir;
  dir.file("a.tmp", "half of an old fi");
  write_file_atomically(dir / "a", "new");
  EXPECT_EQ(read_file(dir / "a", 100), "new");
  EXPECT_FALSE(fs::exists(dir / "a.tmp"));
}

TEST(AtomicFile, UnpublishedLeavesTheTarget) {
  const TempDir dir;
  dir.file("a", "old");
  {
    const PendingFile pending(dir / "a");
    dir.file("a.tmp", "new");
    EXPECT_EQ(pending.temporary(), dir / "a.tmp");
  }
  EXPECT_EQ(read_file(dir / "a", 100), "old");
  EXPECT_FALSE(fs::exists(dir / "a.tmp"));
}

TEST(AtomicFile, SaysWhereWritingFails) {
  const TempDir dir;
  dir.file("file", "");
  try {
    write_file_atomically(dir / "file/below", "x");
    FAIL() << "wrote below a file";
  } catch (const IoError& e) {
    EXPECT_NE(std::string(e.what()).find("file/below"), std::string::npos) << e.what();
  }
}

TEST(ReadFile, KeepsItsLimits) {
  const TempDir dir;
  const std::string text(200'000, 'x');
  dir.file("a", text);
  EXPECT_EQ(read_file(dir / "a", 200'000), text);
  EXPECT_THROW(read_file(dir / "a", 199'999), DataError);
  EXPECT_EQ(read_file(dir.file("empty", ""), 0), "");
  EXPECT_THROW(read_file(dir / "missing", 10), DataError);
  EXPECT_THROW(read_file(dir / "", 10), DataError);
}

// FIPS 180-2, appendix B.
TEST(Sha256, KnownDigests) {
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256_hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  const TempDir dir;
  const std::string million(1'000'000, 'a');
  EXPECT_EQ(sha256_of_file(dir.file("a", million)),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  EXPECT_THROW(sha256_of_file(dir / "missing"), DataError);
}

}  // namespace
}  // namespace quern
