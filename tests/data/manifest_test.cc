// SPDX-License-Identifier: MIT
#include "quern/data/manifest.h"

#include <cstdlib>

#include "quern/autograd/error.h"
#include "quern/data/sha256.h"
#include "tests/support/temp_dir.h"

namespace quern {
namespace {

const std::string kA(64, 'a'), kB(64, 'b');

// The last line of a manifest, for the lines before it.
std::string ended(const std::string& above) {
  return above + "# sha256 " + sha256_hex(above) + "\n";
}

std::string refusal(const std::string& text) {
  try {
    parse_manifest(text, "dir/MANIFEST");
  } catch (const IntegrityError& error) {
    EXPECT_EQ(error.code(), ExitCode::kIntegrity);
    const std::string said = error.what();
    EXPECT_EQ(said.find('\n'), std::string::npos) << said;
    return said;
  }
  ADD_FAILURE() << "accepted: " << text;
  return "";
}

TEST(Manifest, ReadsBackWhatItWrites) {
  const Manifest manifest{{{"model.h5", kA}, {"optimizer.h5", kB}}};
  const std::string text = manifest_text(manifest);
  EXPECT_EQ(text, ended("# quern manifest 1\n" + kA + "  model.h5\n" + kB + "  optimizer.h5\n"));
  EXPECT_EQ(parse_manifest(text, "x").files, manifest.files);
  ASSERT_NE(manifest.find("optimizer.h5"), nullptr);
  EXPECT_EQ(manifest.find("optimizer.h5")->sha256, kB);
  EXPECT_EQ(manifest.find("zero"), nullptr);
  EXPECT_TRUE(parse_manifest(manifest_text({}), "x").files.empty());
}

TEST(Manifest, PointsAtWhatItRefuses) {
  const std::string first = "# quern manifest 1\n", line = kA + "  model.h5\n";
  const struct {
    std::string text, said;
  } cases[] = {
      {"", "dir/MANIFEST:1:1: ends too early"},
      {first, "dir/MANIFEST:2:1: ends too early: expected a line '# sha256 ...' at the end"},
      {first + line, "dir/MANIFEST:3:1: ends too early"},
      {first + line + "# sha256 " + kA, "dir/MANIFEST:3:74: ends too early"},
      {ended("# quern manifest 2\n" + line),
       "dir/MANIFEST:1:1: not a manifest of this version: expected '# quern manifest 1'"},
      {ended(line), "dir/MANIFEST:1:1: not a manifest"},
      {ended(first + "\n"), "dir/MANIFEST:2:1: expected 64 hexadecimal digits in lower case"},
      {ended(first + std::string(64, 'A') + "  model.h5\n"), "dir/MANIFEST:2:1: expected 64"},
      {ended(first + kA + " *model.h5\n"), "dir/MANIFEST:2:65: expected two spaces"},
      {ended(first + kA + "\n"), "dir/MANIFEST:2:65: expected two spaces"},
      {ended(first + kA + "  \n"), "dir/MANIFEST:2:67: expected a file name"},
      {ended(first + kA + "  ../model.h5\n"), "dir/MANIFEST:2:67: expected a file name"},
      {ended(first + kA + "  /etc/passwd\n"), "dir/MANIFEST:2:67: expected a file name"},
      {ended(first + kA + "  a/b\n"), "dir/MANIFEST:2:67: expected a file name"},
      {ended(first + kA + "  a\\b\n"), "dir/MANIFEST:2:67: expected a file name"},
      {ended(first + kA + "  model.h5 \n"), "dir/MANIFEST:2:67: expected a file name"},
      {ended(first + kA + "  a" + std::string(1, '\0') + "\n"), "dir/MANIFEST:2:67: expected a"},
      {ended(first + kA + "  " + std::string(256, 'a') + "\n"), "dir/MANIFEST:2:67: expected a"},
      {ended(first + kA + "  MANIFEST\n"), "dir/MANIFEST:2:67: expected a file name"},
      {ended(first + kA + "  -c\n"), "dir/MANIFEST:2:67: expected a file name"},
      {ended(first + line + line), "dir/MANIFEST:3:67: a file listed twice"},
      {ended(first + line + kB + "  a\n"), "dir/MANIFEST:3:67: expected names in rising order"},
      {ended(first + line) + line, "dir/MANIFEST:3:74: expected nothing after this line"},
      {ended(first + line) + "\n", "dir/MANIFEST:3:74: expected nothing after this line"},
      {first + line + "# sha256 " + kA + "\n",
       "dir/MANIFEST:3:10: damaged: the SHA-256 of the lines above: expected aaaaaaaaaaaa, got "},
      {first + line + "# sha256 " + kA.substr(1) + "\n", "dir/MANIFEST:3:10: expected 64"},
      {std::string((1 << 20) + 1, '\n'), "dir/MANIFEST: is too large for a manifest"},
  };
  for (const auto& c : cases) {
    const std::string said = refusal(c.text);
    EXPECT_TRUE(said.starts_with(c.said)) << said << "\nnot\n" << c.said;
  }
}

TEST(Manifest, EveryFlippedBitIsSeen) {
  const std::string good = manifest_text({{{"model.h5", kA}, {"optimizer.h5", kB}}});
  for (size_t bit = 0; bit < good.size() * 8; ++bit) {
    std::string bad = good;
    bad[bit / 8] = char(bad[bit / 8] ^ (1 << bit % 8));
    EXPECT_THROW(parse_manifest(bad, "x"), IntegrityError) << bit;
  }
  for (size_t size = 0; size < good.size(); ++size) {
    EXPECT_THROW(parse_manifest(good.substr(0, size), "x"), IntegrityError) << size;
  }
}

class ManifestFolder : public ::testing::Test {
 protected:
  ManifestFolder() {
    dir_.file("one", "first");
    dir_.file("two", "second");
    write_manifest(dir_ / "", hash_files(dir_ / "", {"two", "one"}));
  }
  std::string failure() const {
    try {
      verify_folder(dir_ / "");
    } catch (const IntegrityError& error) {
      return error.what();
    }
    return "";
  }

  TempDir dir_;
};

TEST_F(ManifestFolder, VerifiesWhatIsThere) {
  EXPECT_EQ(verify_folder(dir_ / "").files.size(), 2u);
  dir_.file("three", "of no concern");
  EXPECT_EQ(failure(), "");
  EXPECT_THROW(verify_file(read_manifest(dir_ / ""), dir_ / "three"), IntegrityError);
}

TEST_F(ManifestFolder, NamesTheFileThatChanged) {
  dir_.file("two", "seconD");
  EXPECT_NE(failure().find("two: damaged"), std::string::npos) << failure();
  dir_.file("two", "second");
  std::filesystem::rename(dir_ / "one", dir_ / "three");
  EXPECT_NE(failure().find("one: no such file"), std::string::npos) << failure();
  std::filesystem::remove(dir_ / "MANIFEST");
  EXPECT_NE(failure().find("has no MANIFEST"), std::string::npos) << failure();
  dir_.file("MANIFEST", std::string(2 << 20, 'x'));
  EXPECT_NE(failure().find("MANIFEST: is too large"), std::string::npos) << failure();
}

TEST_F(ManifestFolder, Sha256sumAgrees) {
  if (std::system("sha256sum --version >/dev/null 2>&1") != 0) GTEST_SKIP() << "no sha256sum";
  const std::string check =
      "cd '" + (dir_ / "").string() + "' && sha256sum --check --strict --status MANIFEST";
  EXPECT_EQ(std::system(check.c_str()), 0);
  dir_.file("two", "seconD");
  EXPECT_NE(std::system(check.c_str()), 0);
}

TEST_F(ManifestFolder, DoesNotWriteWhatCannotBeRead) {
  EXPECT_THROW(write_manifest(dir_ / "", {{{"../one", kA}}}), IntegrityError);
  EXPECT_EQ(failure(), "");
}

}  // namespace
}  // namespace quern
