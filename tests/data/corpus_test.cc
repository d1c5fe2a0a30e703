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
  EXPECT_EQ(
      line("{\"text\": 3}"),
      R"(a.jsonl:3:11: expected "text" to be a string, got a number (put the text in double quotes))");
  EXPECT_EQ(
      line("{\"txt\": \"x\"}"),
      R"(a.jsonl:3:1: expected an object {"text": "..."}, got no key "text" (is it "txt"? Rename that key))");
  EXPECT_EQ(
      line("[1]"),
      R"(a.jsonl:3:1: expected an object {"text": "..."}, got an array (each line is one object))");
  for (const char* bad :
       {"{\"text\": \"x\"", "{\"text\": \"x\"} {}", "{\"text\": \"x\", \"text\": \"y\"}"}) {
    EXPECT_EQ(line(bad).substr(0, 10), "a.jsonl:3:") << bad << ": " << line(bad);
  }
  EXPECT_EQ(line(std::string(100'000, '[')).substr(0, 10), "a.jsonl:3:");
}

TEST(Corpus, LongLinesAreRefusedBeforeTheyFillTheMemory) {
  const TempDir dir;
  dir.file("a.jsonl", "{\"text\": \"x\"}\n");
  std::filesystem::resize_file(dir / "a.jsonl", std::uintmax_t(1) << 33);  // sparse: zeros
  EXPECT_EQ(refusal(dir / "a.jsonl"),
            "a.jsonl:2: expected a line of at most 8388608 bytes, got a longer one (split the "
            "document, or raise --max-line-bytes)");
}

TEST(Corpus, RefusesNothingToRead) {
  const TempDir dir;
  const auto first = [&](const fs::path& path) {
    const std::string text = refusal(path);
    return text.substr(0, text.find(" ("));
  };
  EXPECT_EQ(first(dir / "missing"), "missing: no such file");
  EXPECT_EQ(first(dir.file("empty.txt", "")), "empty.txt: there is no text in it");
  EXPECT_EQ(first(dir.file("blank.jsonl", "\n{\"text\": \"\"}\n")),
            "blank.jsonl: there is no text in it");
  dir.file("folder/readme.md", "x");
  EXPECT_EQ(first(dir / "folder"), "folder: holds no *.txt or *.jsonl files");
}

Corpus read_as(InvalidUtf8 policy, const fs::path& path) {
  return read_corpus(std::vector{path}, {.invalid_utf8 = policy});
}

TEST(Corpus, InvalidUtf8IsReplacedAndCounted) {
  const TempDir dir;
  dir.file("in/a.txt", "one\nca\xff\xfe fe");
  dir.file("in/b.jsonl",
           "{\"text\": \"good \\ud83d\\ude00\"}\n"
           "{\"text\": \"\\\\ud800 \\ud800 \\udc00\xc3\"}\n");
  dir.file("in/c.txt", "good");
  const Corpus corpus = read_as(InvalidUtf8::replace, dir / "in");
  EXPECT_EQ(corpus.documents[0].text, "one\nca\uFFFD\uFFFD fe");
  EXPECT_EQ(corpus.documents[1].text, "good \U0001F600");
  EXPECT_EQ(corpus.documents[2].text, "\\ud800 \uFFFD \uFFFD\uFFFD");
  EXPECT_EQ(corpus.invalid_utf8_bytes, 5);
  EXPECT_EQ(corpus.invalid_utf8_files, 2);
  EXPECT_EQ(corpus.first_invalid_utf8, (dir / "in/a.txt:2:3").string());
}

TEST(Corpus, InvalidUtf8IsKeptOrRefusedWhenAskedFor) {
  const TempDir dir;
  const fs::path text = dir.file("a.txt", "\xEF\xBB\xBFx\0\xff");
  const Corpus kept =
      read_as(InvalidUtf8::keep, dir.file("b.txt", std::string("\xEF\xBB\xBFx\0\xff", 6)));
  EXPECT_EQ(kept.documents[0].text, std::string("\xEF\xBB\xBFx\0\xff", 6));
  EXPECT_EQ(kept.invalid_utf8_bytes, 1);
  EXPECT_EQ(read_as(InvalidUtf8::refuse, text).documents[0].text, "x");  // without the mark
  EXPECT_THROW(read_as(InvalidUtf8::refuse, dir.file("c.txt", "\xff")), DataError);
  for (const auto policy : {InvalidUtf8::keep, InvalidUtf8::refuse}) {
    for (const char* line : {"{\"text\": \"\xff\"}", "{\"text\": \"\\ud800\"}"}) {
      EXPECT_THROW(read_as(policy, dir.file("d.jsonl", line)), DataError) << line;
    }
  }
}

TEST(Corpus, TheLineCapCanBeLowered) {
  const TempDir dir;
  const fs::path file = dir.file("a.jsonl", "{\"text\": \"0123456789\"}\n");
  EXPECT_NO_THROW(read_corpus(std::vector{file}, {.max_line_bytes = 22}));
  EXPECT_THROW(read_corpus(std::vector{file}, {.max_line_bytes = 21}), DataError);
  EXPECT_THROW(read_corpus(std::vector{file}, {.max_line_bytes = 0}), ConfigError);
}

TEST(Utf8, CountsBytesThatAreNone) {
  EXPECT_EQ(count_invalid_utf8("plain"), 0);
  EXPECT_EQ(count_invalid_utf8("Größe € 😀"), 0);
  EXPECT_EQ(count_invalid_utf8("a\xff"
                               "b\xc3"),
            2);
  EXPECT_EQ(count_invalid_utf8("\xed\xa0\x80"), 3);  // a surrogate
  EXPECT_EQ(count_invalid_utf8("\xc0\xaf"), 2);      // '/' written too long
  for (size_t before = 0; before < 20; ++before) {   // wherever the eight bytes begin
    EXPECT_EQ(find_invalid_utf8(std::string(before, 'a') + "\xff" + std::string(9, 'a')), before);
  }
}

}  // namespace
}  // namespace quern
