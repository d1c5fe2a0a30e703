// SPDX-License-Identifier: MIT
#include "quern/data/corpus.h"

#include "quern/autograd/error.h"
#include "tests/support/temp_dir.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

Corpus read(std::vector<fs::path> paths) { return read_corpus(paths); }

std::string refusal(const fs::path& path) {
  try {
    read({path});
  } catch (const DataError& e) {
    return std::string(e.what()).substr(path.parent_path().string().size() + 1);
  }
  return "no DataError";
}

TEST(Corpus, TextJsonLinesAndFolders) {
  const TempDir dir;
  dir.file("all/b.txt", "second");
  dir.file("all/a/x.jsonl", R"({"text": "zero", "id": [1]})"
                            "\r\n\n"
                            R"({"meta": {"text": "no"}, "text": "G\u00f6del\n"})");
  dir.file("all/c.md", "not read");
  dir.file("all/empty.txt", "");
  dir.file("single.text", "alone");
  const Corpus corpus = read({dir / "all", dir / "single.text"});
  EXPECT_EQ(corpus.sources, (std::vector<std::string>{"all", "single"}));
  ASSERT_EQ(corpus.documents.size(), 4u);
  EXPECT_EQ(corpus.documents[0].text, "zero");
  EXPECT_EQ(corpus.documents[1].text, "Gödel\n");
  EXPECT_EQ(corpus.documents[2].text, "second");
  EXPECT_EQ(corpus.documents[3].text, "alone");
  EXPECT_EQ(corpus.documents[0].file, corpus.documents[1].file);
  EXPECT_NE(corpus.documents[1].file, corpus.documents[2].file);
  EXPECT_EQ(corpus.documents[2].source, 0);
  EXPECT_EQ(corpus.documents[3].source, 1);
}

TEST(Corpus, EqualNamesBecomePaths) {
  const TempDir dir;
  dir.file("a/x.txt", "1");
  dir.file("b/x.txt", "2");
  const Corpus corpus = read({dir / "a/x.txt", dir / "b/x.txt", dir / "a/"});
  EXPECT_EQ(corpus.sources, (std::vector<std::string>{(dir / "a/x.txt").string(),
                                                      (dir / "b/x.txt").string(), "a"}));
}

TEST(Corpus, ErrorsNameFileAndLine) {
  const TempDir dir;
  const std::string good = R"({"text": "x"})"
                           "\n";
  const auto line = [&](const std::string& bad) {
    return refusal(dir.file("a.jsonl", good + "\n" + bad + "\n" + good));
  };
  EXPECT_EQ(line("{\"text\": 3}"),
            R"(a.jsonl:3: expected an object {"text": "..."}, got "text" of type number)");
  EXPECT_EQ(line("{\"txt\": \"x\"}"),
            R"(a.jsonl:3: expected an object {"text": "..."}, got no key "text")");
  EXPECT_EQ(line("[1]"), R"(a.jsonl:3: expected an object {"text": "..."}, got array)");
  for (const char* bad : {"{\"text\": \"x\"", "{\"text\": \"\\ud800\"}", "{\"text\": \"\xff\"}",
                          "{\"text\": \"x\"} {}", "{\"text\": \"x\", \"text\": \"y\"}"}) {
    EXPECT_EQ(line(bad).substr(0, 10), "a.jsonl:3:") << bad << ": " << line(bad);
  }
  EXPECT_EQ(line(std::string(100'000, '[')).substr(0, 10), "a.jsonl:3:");
}

TEST(Corpus, LongLinesAreRefusedBeforeTheyFillTheMemory) {
  const TempDir dir;
  dir.file("a.jsonl", "{\"text\": \"x\"}\n");
  std::filesystem::resize_file(dir / "a.jsonl", std::uintmax_t(1) << 33);  // sparse: zeros
  EXPECT_EQ(refusal(dir / "a.jsonl"), "a.jsonl:2: expected a line of at most 67108864 bytes");
}

TEST(Corpus, RefusesNothingToRead) {
  const TempDir dir;
  EXPECT_EQ(refusal(dir / "missing"), "missing: no such file or folder");
  EXPECT_EQ(refusal(dir.file("empty.txt", "")), "empty.txt: there is no text in it");
  EXPECT_EQ(refusal(dir.file("blank.jsonl", "\n{\"text\": \"\"}\n")),
            "blank.jsonl: there is no text in it");
  dir.file("folder/readme.md", "x");
  EXPECT_EQ(refusal(dir / "folder"), "folder: holds no *.txt or *.jsonl files");
}

TEST(Corpus, KeepsAndCountsInvalidUtf8) {
  EXPECT_EQ(count_invalid_utf8("plain"), 0);
  EXPECT_EQ(count_invalid_utf8("Größe € 😀"), 0);
  EXPECT_EQ(count_invalid_utf8("a\xff"
                               "b\xc3"),
            2);
  EXPECT_EQ(count_invalid_utf8("\xed\xa0\x80"), 3);  // a surrogate
  EXPECT_EQ(count_invalid_utf8("\xc0\xaf"), 2);      // '/' written too long
  const TempDir dir;
  const Corpus corpus = read({dir.file("a.txt", "a\xff"), dir.file("b.txt", "\x80")});
  EXPECT_EQ(corpus.documents[0].text, "a\xff");
  EXPECT_EQ(corpus.invalid_utf8_bytes, 2);
}

}  // namespace
}  // namespace quern
