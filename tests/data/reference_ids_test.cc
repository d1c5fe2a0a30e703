// SPDX-License-Identifier: MIT
// Token ids against those of Hugging Face's own library: tests/data/reference/ids.json, made by
// tests/data/make_reference_ids.mjs. Code and Unicode are generated, here as there; the prose is
// the quickstart's corpus.
#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "quern/data/atomic_file.h"
#include "quern/data/sha256.h"
#include "quern/data/tokenizer.h"

namespace quern {
namespace {

using nlohmann::json;
using Chunks = std::vector<std::string>;

const std::string kFolder = "tests/data/reference/";

json read_json(const std::string& name) {
  return json::parse(read_file(kFolder + name, i64(1) << 24));
}

const json& texts() {
  static const json object = read_json("texts.json");
  return object;
}

const json& expected() {
  static const json object = read_json("ids.json");
  return object;
}

void append_utf8(std::string& text, std::uint32_t c) {
  const auto tail = [c](int shift) { return static_cast<char>(0x80 | (c >> shift & 63)); };
  if (c < 0x80) {
    text += static_cast<char>(c);
  } else if (c < 0x800) {
    text += {static_cast<char>(0xc0 | c >> 6), tail(0)};
  } else if (c < 0x10000) {
    text += {static_cast<char>(0xe0 | c >> 12), tail(6), tail(0)};
  } else {
    text += {static_cast<char>(0xf0 | c >> 18), tail(12), tail(6), tail(0)};
  }
}

// Marsaglia's xorshift, 32 bits.
class Generator {
 public:
  explicit Generator(std::uint32_t seed) : x_(seed) {}
  std::uint32_t below(std::uint32_t n) {
    x_ ^= x_ << 13;
    x_ ^= x_ >> 17;
    x_ ^= x_ << 5;
    return x_ % n;
  }

 private:
  std::uint32_t x_;
};

// In `share` of 16 cases a character of one of the ranges, otherwise an atom.
Chunks generate(const std::string& name) {
  const json& recipe = texts()[name];
  const auto ranges = recipe["ranges"].get<std::vector<std::array<std::uint32_t, 2>>>();
  const auto atoms = recipe["atoms"].get<std::vector<std::string>>();
  const auto share = recipe["share"].get<std::uint32_t>();
  Generator generator(recipe["seed"]);
  Chunks chunks(texts()["chunks"].get<std::size_t>());
  for (std::string& text : chunks) {
    while (text.size() < texts()["chunk_bytes"].get<std::size_t>()) {
      if (generator.below(16) < share) {
        const auto [first, last] = ranges[generator.below(std::uint32_t(ranges.size()))];
        append_utf8(text, first + generator.below(last - first + 1));
      } else {
        text += atoms[generator.below(std::uint32_t(atoms.size()))];
      }
    }
  }
  return chunks;
}

// Whole lines, of at most chunk_bytes bytes each; nothing when the file is not the one known.
Chunks cut_file(const std::string& name) {
  Chunks chunks;
  if (!std::filesystem::exists(name)) return chunks;
  const std::string text = read_file(name, i64(1) << 24);
  if (sha256_hex(text) != expected()["files"][name]) return chunks;
  const auto most = texts()["chunk_bytes"].get<std::size_t>();
  for (std::size_t from = 0; from < text.size();) {
    std::size_t to = std::min(from + most, text.size());
    if (to < text.size()) to = text.rfind('\n', to - 1) + 1;
    chunks.push_back(text.substr(from, to - from));
    from = to;
  }
  return chunks;
}

std::string hash_of(const std::vector<i32>& ids) {
  return sha256_hex({reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof(i32)});
}

void compare(const Tokenizer& tokenizer, const Chunks& chunks, const json& reference) {
  ASSERT_EQ(chunks.size(), reference.size());
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    const std::vector<i32> ids = tokenizer.encode(chunks[i]);
    EXPECT_EQ(ids.size(), reference[i][0]) << "chunk " << i;
    EXPECT_EQ(hash_of(ids).substr(0, 16), reference[i][1]) << "chunk " << i;
  }
}

class ReferenceIds : public ::testing::TestWithParam<std::string> {
 protected:
  // GPT-2's own vocabulary is not ours to keep.
  void SetUp() override {
    const bool own = GetParam() != "gpt2-50257";
    const std::string file = own ? kFolder + GetParam() + ".json" : "build/reference/gpt2.json";
    if (!own && !std::filesystem::exists(file)) {
      GTEST_SKIP() << file << " is missing; tests/data/make_reference_ids.mjs makes it";
    }
    tokenizer_ = std::make_unique<Tokenizer>(Tokenizer::load(file));
  }
  const json& reference() const { return expected()[GetParam()]; }

  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_P(ReferenceIds, ShortTexts) {
  const auto shorts = texts()["short"].get<Chunks>();
  ASSERT_EQ(shorts.size(), reference()["short"].size());
  for (std::size_t i = 0; i < shorts.size(); ++i) {
    EXPECT_EQ(json(tokenizer_->encode(shorts[i])), reference()["short"][i]) << shorts[i];
  }
}

TEST_P(ReferenceIds, Code) { compare(*tokenizer_, generate("code"), reference()["code"]); }

TEST_P(ReferenceIds, Unicode) { compare(*tokenizer_, generate("unicode"), reference()["unicode"]); }

TEST_P(ReferenceIds, Prose) {
  for (const json& name : texts()["prose"]) {
    const Chunks chunks = cut_file(name);
    if (chunks.empty()) {
      GTEST_SKIP() << name << " is missing, or another; recipes/corpus.sh makes the corpus";
    }
    compare(*tokenizer_, chunks, reference()[name.get<std::string>()]);
  }
}

INSTANTIATE_TEST_SUITE_P(Rules, ReferenceIds,
                         ::testing::Values("gpt2", "deepseek_llm", "deepseek_v3", "gpt2-50257"),
                         [](const auto& info) {
                           return info.param == "gpt2-50257" ? std::string("gpt2_50257")
                                                             : info.param;
                         });

// What the generators make is what the reference was made of, a megabyte and more.
TEST(ReferenceTexts, AreTheSame) {
  for (const char* name : {"code", "unicode"}) {
    std::string text;
    for (const std::string& chunk : generate(name)) text += chunk;
    EXPECT_GE(text.size(), 1'000'000u);
    EXPECT_EQ(sha256_hex(text), expected()["generated"][name]);
  }
}

}  // namespace
}  // namespace quern
