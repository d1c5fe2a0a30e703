// SPDX-License-Identifier: MIT
#include "quern/data/token_file.h"

#include <gtest/gtest.h>

#include <functional>

#include "quern/autograd/error.h"
#include "quern/data/atomic_file.h"
#include "quern/data/hdf5_file.h"
#include "tests/support/temp_dir.h"

namespace quern {
namespace {

const std::string kHash(64, 'a');

TokenData sample(i32 vocab_size) {
  return {.tokenizer_sha256 = kHash,
          .vocab_size = vocab_size,
          .tokens = {5, 6, 1, 9, 1, 7, 7, 7, 1},
          .document_offsets = {0, 3, 5, 9},
          .document_source = {0, 0, 1},
          .sources = {{"novel", 10, std::string(64, 'b')}, {"verse", 12, std::string(64, 'c')}}};
}

std::string message_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const DataError& e) {
    return e.what();
  }
  return "no DataError";
}

void expect_message(const std::string& part, const std::function<void()>& f) {
  const std::string message = message_of(f);
  EXPECT_NE(message.find(part), std::string::npos) << message << "\nshould say: " << part;
}

TEST(TokenFile, ComesBackAsItWas) {
  const TempDir dir;
  for (const i32 vocab_size : {100, 65'536, 65'537, 100'000}) {
    TokenData data = sample(vocab_size);
    data.tokens[0] = vocab_size - 1;
    write_token_file(dir / "t.h5", data);
    EXPECT_EQ(Hdf5Reader(dir / "t.h5").type("tokens"),
              vocab_size <= 65'536 ? Hdf5Type::u16 : Hdf5Type::i32);
    const TokenFile file(dir / "t.h5", kHash);
    EXPECT_EQ(file.vocab_size(), vocab_size);
    EXPECT_EQ(file.num_tokens(), 9);
    EXPECT_EQ(file.num_documents(), 3);
    EXPECT_EQ(file.sources()[1].name, "verse");
    EXPECT_EQ(file.sources()[1].bytes, 12);
    EXPECT_EQ(file.sources()[0].sha256, std::string(64, 'b'));
    std::vector<i32> tokens(9);
    file.read(0, tokens);
    EXPECT_EQ(tokens, data.tokens);
    file.read(3, std::span(tokens).first(2));
    EXPECT_EQ(tokens[0], 9);
    const std::vector<i64> at = {0, 0, 0, 1, 1, 2, 2, 2, 2};
    for (i64 i = 0; i < 9; ++i) EXPECT_EQ(file.document_at(i), at[size_t(i)]) << i;
  }
}

TEST(TokenFile, RefusesAnotherTokenizer) {
  const TempDir dir;
  write_token_file(dir / "t.h5", sample(100));
  expect_message("t.h5: was made by another tokenizer: expected tokenizer dddddddddddd, got aaaaaa",
                 [&] { TokenFile(dir / "t.h5", std::string(64, 'd')); });
}

TEST(TokenFile, RefusesWhatIsNoTokenFile) {
  const TempDir dir;
  {
    Hdf5Writer out(dir / "model.h5");
    out.write("tokens", Tensor::zeros({4}, DType::i32));
    out.commit();
  }
  expect_message("model.h5: is not a token file", [&] { TokenFile(dir / "model.h5"); });
  expect_message("text.h5: is not a token file", [&] { TokenFile(dir.file("text.h5", "To be")); });
  expect_message("no such file", [&] { TokenFile(dir / "missing.h5"); });
}

TEST(TokenFile, RefusesPartsThatDoNotFit) {
  const TempDir dir;
  const auto writing = [&](const std::function<void(TokenData&)>& spoil) {
    return [&dir, spoil] {
      TokenData data = sample(100);
      spoil(data);
      write_token_file(dir / "t.h5", data);
    };
  };
  expect_message("tokens: token 4: expected less than vocab_size 100, got 100",
                 writing([](TokenData& d) { d.tokens[4] = 100; }));
  expect_message("tokens: token 8", writing([](TokenData& d) { d.tokens[8] = -1; }));
  expect_message("do not cover", writing([](TokenData& d) { d.document_offsets.back() = 8; }));
  expect_message("do not cover", writing([](TokenData& d) { d.document_offsets[0] = 1; }));
  expect_message("do not cover", writing([](TokenData& d) { d.document_offsets.pop_back(); }));
  expect_message("document 1 has no tokens",
                 writing([](TokenData& d) { d.document_offsets[2] = 3; }));
  expect_message("document 2 has no source",
                 writing([](TokenData& d) { d.document_source[2] = 2; }));
  expect_message("there are no documents", writing([](TokenData& d) { d = {.vocab_size = 3}; }));
  EXPECT_FALSE(std::filesystem::exists(dir / "t.h5"));
}

// A file whose parts were written by another hand: the reader checks as the writer does.
TEST(TokenFile, ReaderChecksToo) {
  const TempDir dir;
  const auto write = [&](i64 version, i64 vocab_size, std::vector<i64> offsets) {
    Hdf5Writer out(dir / "t.h5");
    out.set_attribute("/", "format", "quern_tokens");
    out.set_attribute("/", "version", version);
    out.set_attribute("/", "tokenizer_sha256", kHash);
    out.set_attribute("/", "vocab_size", vocab_size);
    out.write("tokens", std::vector<std::uint16_t>{1, 2, 3});
    out.write("document_offsets", offsets);
    out.write("document_source", std::vector<i32>{0});
    out.write("source_names", std::vector<std::string>{"x"});
    out.write("source_bytes", std::vector<i64>{3});
    out.write("source_sha256", std::vector<std::string>{kHash});
    out.commit();
  };
  write(1, 4, {0, 3});
  EXPECT_EQ(TokenFile(dir / "t.h5").num_tokens(), 3);
  write(2, 4, {0, 3});
  expect_message("version: expected 1, got 2", [&] { TokenFile(dir / "t.h5"); });
  write(1, 3, {0, 3});
  expect_message("expected less than vocab_size 3", [&] { TokenFile(dir / "t.h5"); });
  write(1, 4, {0, 4});
  expect_message("do not cover", [&] { TokenFile(dir / "t.h5"); });
}

TEST(TokenFile, TruncationAndFlippedBitsAreNeverSilent) {
  const TempDir dir;
  TokenData data = sample(100);
  data.tokens.assign(5000, 42);
  data.document_offsets.back() = 5000;
  write_token_file(dir / "t.h5", data);
  const std::string whole = read_file(dir / "t.h5", 1 << 20);
  for (size_t size = 0; size < whole.size(); size += 1 + whole.size() / 40) {
    const auto cut = dir.file("cut.h5", std::string_view(whole).substr(0, size));
    EXPECT_THROW(TokenFile{cut}, DataError) << size;
  }
  int refused = 0;
  for (size_t at = 0; at < whole.size(); at += 1 + whole.size() / 200) {
    std::string bytes = whole;
    bytes[at] = char(bytes[at] ^ (1 << (at % 8)));
    try {
      const TokenFile file(dir.file("flip.h5", bytes));
      std::vector<i32> tokens(size_t(file.num_tokens()));
      file.read(0, tokens);
      EXPECT_EQ(tokens, data.tokens) << at;
    } catch (const DataError&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 100);
}

}  // namespace
}  // namespace quern
