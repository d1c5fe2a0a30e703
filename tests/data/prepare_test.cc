// SPDX-License-Identifier: MIT
#include "quern/data/prepare.h"

#include <sys/resource.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <set>

#include "quern/autograd/error.h"
#include "quern/autograd/kernels/parallel.h"
#include "quern/data/atomic_file.h"
#include "quern/data/manifest.h"
#include "quern/data/sha256.h"
#include "quern/data/token_file.h"
#include "quern/data/tokenizer.h"
#include "tests/support/temp_dir.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

// The documents of a token file as text, without their <|eos|>, which must be there.
std::vector<std::string> texts_of(const fs::path& folder, const std::string& name) {
  const Tokenizer tokenizer = Tokenizer::load(folder / "tokenizer.json");
  const TokenFile file(folder / name, tokenizer.hash());
  std::vector<std::string> texts;
  for (i64 i = 0; i < file.num_documents(); ++i) {
    const i64 begin = file.document_offsets()[size_t(i)];
    std::vector<i32> ids(size_t(file.document_offsets()[size_t(i) + 1] - begin));
    file.read(begin, ids);
    EXPECT_EQ(ids.back(), tokenizer.special_id(kEosToken)) << name << " document " << i;
    ids.pop_back();
    EXPECT_EQ(std::ranges::count(ids, *tokenizer.special_id(kEosToken)), 0) << "from the text";
    texts.push_back(tokenizer.decode(ids));
  }
  return texts;
}

// n JSON lines of different lengths.
std::string numbered_lines(int n, const std::string& word) {
  std::string lines;
  for (int i = 0; i < n; ++i) {
    std::string text;
    for (int k = 0; k <= i % 7; ++k) text += word + " " + std::to_string(i) + " ";
    lines += "{\"text\": \"" + text + "\"}\n";
  }
  return lines;
}

TEST(Prepare, NamedValidationSources) {
  const TempDir dir;
  const auto report =
      prepare({.train = {dir.file("a.txt", "the cat and the hat <|eos|> the end"),
                         dir.file("b.jsonl", numbered_lines(30, "mouse"))},
               .validation = {dir.file("c.txt", "the dog \xff"), dir.file("d.txt", "a bird")},
               .vocab_size = 300,
               .out = dir / "out",
               .corpus = {.invalid_utf8 = InvalidUtf8::keep}});
  const TokenFile train(dir / "out/train.h5"), validation(dir / "out/validation.h5");
  ASSERT_EQ(report.train.size(), 2u);
  ASSERT_EQ(report.validation.size(), 2u);
  EXPECT_EQ(report.train[1].name, "b");
  EXPECT_EQ(report.train[1].documents, 30);
  EXPECT_EQ(report.train[0].tokens + report.train[1].tokens, train.num_tokens());
  EXPECT_EQ(report.validation[0].bytes, 9);
  EXPECT_EQ(validation.sources()[0].bytes, 9);
  EXPECT_EQ(validation.sources()[1].name, "d");
  EXPECT_EQ(validation.sources()[1].sha256, sha256_of_file(dir / "d.txt"));
  EXPECT_EQ(report.invalid_utf8_bytes, 1);
  EXPECT_EQ(texts_of(dir / "out", "train.h5")[0], "the cat and the hat <|eos|> the end");
  EXPECT_EQ(texts_of(dir / "out", "validation.h5"),
            (std::vector<std::string>{"the dog \xff", "a bird"}));
  EXPECT_EQ(train.tokenizer_sha256(), report.tokenizer_sha256);
}

TEST(Prepare, TheTokenizerSeesTheTrainingPartOnly) {
  const TempDir dir;
  const auto train = dir.file("a.txt", numbered_lines(50, "mouse"));
  const auto with = prepare({.train = {train},
                             .validation = {dir.file("v.txt", numbered_lines(50, "elephant"))},
                             .vocab_size = 400,
                             .out = dir / "with"});
  const auto without = prepare({.train = {train}, .vocab_size = 400, .out = dir / "without"});
  EXPECT_EQ(with.tokenizer_sha256, without.tokenizer_sha256);
  EXPECT_FALSE(fs::exists(dir / "without/validation.h5"));
}

TEST(Prepare, SplitByDocument) {
  const TempDir dir;
  PrepareOptions options{.train = {dir.file("a.jsonl", numbered_lines(40, "x"))},
                         .validation_fraction = 0.2,
                         .vocab_size = 280,
                         .out = dir / "out"};
  prepare(options);
  auto train = texts_of(dir / "out", "train.h5");
  const auto validation = texts_of(dir / "out", "validation.h5");
  EXPECT_EQ(train.size(), 32u);
  EXPECT_EQ(validation.size(), 8u);
  train.insert(train.end(), validation.begin(), validation.end());
  EXPECT_EQ(std::set<std::string>(train.begin(), train.end()).size(), 40u);

  const std::string bytes = read_file(dir / "out/validation.h5", 1 << 20);
  prepare(options);
  EXPECT_EQ(read_file(dir / "out/validation.h5", 1 << 20), bytes);
  options.seed = 1;
  prepare(options);
  EXPECT_NE(texts_of(dir / "out", "validation.h5"), validation);

  options.validation_fraction = 0;  // and the part of another corpus does not stay
  prepare(options);
  EXPECT_FALSE(fs::exists(dir / "out/validation.h5"));
}

TEST(Prepare, SplitByPosition) {
  const TempDir dir;
  // 0.9 * 21 = 18.9; byte 18 lies within the second of the three-byte signs.
  const std::string text = "0123456789abcd€€z";
  ASSERT_EQ(text.size(), 21u);
  dir.file("in/a.txt", text);
  dir.file("in/b.jsonl", R"({"text": "01234"})"
                         "\n"
                         R"({"text": "5678901234"})"
                         "\n"
                         R"({"text": "56789"})");
  prepare({.train = {dir / "in"},
           .validation_fraction = 0.1,
           .split_by_position = true,
           .vocab_size = 260,
           .out = dir / "out"});
  EXPECT_EQ(texts_of(dir / "out", "train.h5"),
            (std::vector<std::string>{"0123456789abcd€", "01234", "5678901234", "567"}));
  EXPECT_EQ(texts_of(dir / "out", "validation.h5"), (std::vector<std::string>{"€z", "89"}));
}

TEST(Prepare, AGivenTokenizerIsKept) {
  const TempDir dir;
  const auto text = dir.file("a.txt", "so it goes");
  const auto first = prepare({.train = {text}, .vocab_size = 260, .out = dir / "one"});
  const auto second = prepare({.train = {dir.file("b.txt", numbered_lines(9, "then"))},
                               .tokenizer = dir / "one/tokenizer.json",
                               .out = dir / "two"});
  EXPECT_EQ(first.tokenizer_sha256, second.tokenizer_sha256);
  EXPECT_EQ(read_file(dir / "one/tokenizer.json", 1 << 20),
            read_file(dir / "two/tokenizer.json", 1 << 20));
}

TEST(Prepare, ThreadsDoNotChangeTheResult) {
  const TempDir dir;
  dir.file("in/a.jsonl", numbered_lines(20'000, "word by word"));
  const int threads = num_threads();
  std::vector<std::string> bytes;
  for (const int n : {1, 2}) {
    set_num_threads(n);
    prepare({.train = {dir / "in"},
             .validation_fraction = 0.1,
             .vocab_size = 300,
             .out = dir / std::to_string(n)});
    bytes.push_back(sha256_of_file(dir / (std::to_string(n) + "/train.h5")));
  }
  set_num_threads(threads);
  EXPECT_EQ(bytes[0], bytes[1]);
}

TEST(Prepare, RefusesOptionsThatDoNotGoTogether) {
  const TempDir dir;
  const auto a = dir.file("a.txt", "some text"), b = dir.file("b.txt", "more");
  EXPECT_THROW(prepare({.out = dir / "o"}), ConfigError);
  EXPECT_THROW(prepare({.train = {a}, .validation_fraction = 1, .out = dir / "o"}), ConfigError);
  EXPECT_THROW(prepare({.train = {a}, .validation = {b}, .validation_fraction = 0.1}), ConfigError);
  EXPECT_THROW(prepare({.train = {a, b}, .validation = {b}, .out = dir / "o"}), ConfigError);
  EXPECT_THROW(prepare({.train = {a}, .validation_fraction = 0.1, .out = dir / "o"}), DataError);
  EXPECT_THROW(prepare({.train = {dir / "none"}, .out = dir / "o"}), DataError);
  EXPECT_FALSE(fs::exists(dir / "o"));
}

std::set<std::string> names_in(const fs::path& folder) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) {
    names.insert(entry.path().filename().string());
  }
  return names;
}

// A limit on file sizes stands for a disk that fills up.
TEST(Prepare, AFailureLeavesTheFormerOutputAsItWas) {
  const TempDir dir;
  const PrepareOptions options{.train = {dir.file("a.txt", numbered_lines(200, "mouse"))},
                               .vocab_size = 300,
                               .out = dir / "out"};
  prepare(options);
  const Manifest before = verify_folder(dir / "out");
  PrepareOptions other = options;
  other.train = {dir.file("b.txt", numbered_lines(3000, "elephant"))};
  rlimit old{};
  getrlimit(RLIMIT_FSIZE, &old);
  const auto ignored = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{.rlim_cur = 20'000, .rlim_max = old.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  EXPECT_THROW(prepare(other), IoError);
  setrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, ignored);
  EXPECT_EQ(verify_folder(dir / "out").files, before.files);
  EXPECT_EQ(names_in(dir / ""), (std::set<std::string>{"a.txt", "b.txt", "out"}));
  prepare(other);
  EXPECT_NE(verify_folder(dir / "out").files, before.files);
}

TEST(Prepare, WhatWasInterruptedIsClearedAwayAndWhatIsNotOursStays) {
  const TempDir dir;
  const PrepareOptions options{.train = {dir.file("a.txt", numbered_lines(20, "mouse"))},
                               .vocab_size = 300,
                               .out = dir / "out"};
  dir.file("out.tmp/train.h5", "half");
  dir.file("out/notes.md", "mine");
  dir.file("out/validation.h5", "of an earlier call");
  prepare(options);
  EXPECT_EQ(names_in(dir / "out"),
            (std::set<std::string>{"MANIFEST", "notes.md", "tokenizer.json", "train.h5"}));
  EXPECT_FALSE(fs::exists(dir / "out.tmp"));
  verify_folder(dir / "out");
  dir.file("out.tmp/notes.md", "mine too");
  EXPECT_THROW(prepare(options), ConfigError);
  EXPECT_TRUE(fs::exists(dir / "out.tmp/notes.md"));
}

TEST(Prepare, TinyShakespeareByPosition) {
  const char* shared = std::getenv("QUERN_SHARED");
  if (shared == nullptr) GTEST_SKIP() << "QUERN_SHARED is not set";
  const TempDir dir;
  const auto report = prepare({.train = {fs::path(shared) / "data/tinyshakespeare.txt"},
                               .validation_fraction = 0.1,
                               .split_by_position = true,
                               .vocab_size = 512,
                               .out = dir / "out"});
  EXPECT_EQ(report.train[0].bytes, 1'003'854);
  EXPECT_EQ(report.validation[0].bytes, 111'540);
  EXPECT_GT(report.validation[0].bytes_per_token(), 1.5);
  const std::string whole =
      texts_of(dir / "out", "train.h5")[0] + texts_of(dir / "out", "validation.h5")[0];
  EXPECT_EQ(sha256_hex(whole), sha256_of_file(fs::path(shared) / "data/tinyshakespeare.txt"));
}

}  // namespace
}  // namespace quern
