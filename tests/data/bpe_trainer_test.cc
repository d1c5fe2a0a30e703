// SPDX-License-Identifier: MIT
// Training against a word-for-word slow version, and its independence of threads.
#include "quern/data/bpe_trainer.h"

#include <gtest/gtest.h>

#include <chrono>
#include <map>
#include <set>

#include "quern/autograd/error.h"
#include "quern/data/pretokenize.h"
#include "tests/data/tokenizer_fixture.h"

namespace quern {
namespace {

using Strings = std::vector<std::string>;

Tokenizer train(std::string_view text, BpeTrainerOptions options) {
  const std::string_view texts[] = {text};
  return train_bpe(texts, options);
}

Strings learnt(const Tokenizer& tokenizer) {
  const auto& bytes = tokenizer.parts().token_bytes;
  return Strings(bytes.begin() + 3 + 256, bytes.end());
}

// The rule word for word: count all pairs anew before each merge.
Strings slow_train(std::string_view text, int merges) {
  std::vector<std::vector<i32>> words;
  for_each_piece(Splitting::kGpt2, text, [&](std::string_view piece) {
    words.emplace_back();
    for (const char c : piece) words.back().push_back(3 + static_cast<unsigned char>(c));
  });
  Strings bytes(3);
  for (int b = 0; b < 256; ++b) bytes.emplace_back(1, static_cast<char>(b));
  while (merges-- > 0) {
    std::map<std::pair<i32, i32>, i64> counts;
    for (const auto& word : words) {
      for (std::size_t i = 0; i + 1 < word.size(); ++i) ++counts[{word[i], word[i + 1]}];
    }
    auto best = counts.begin();
    for (auto at = counts.begin(); at != counts.end(); ++at) {
      if (at->second > best->second) best = at;
    }
    if (best == counts.end() || best->second < 2) break;
    const auto [left, right] = best->first;
    const std::string made = bytes[left] + bytes[right];
    const auto known = std::find(bytes.begin() + 3, bytes.end(), made);
    const auto id = static_cast<i32>(known - bytes.begin());
    if (known == bytes.end()) {
      bytes.push_back(made);
    } else {
      ++merges;  // the vocabulary has not grown
    }
    for (auto& word : words) {
      std::vector<i32> merged;
      for (std::size_t i = 0; i < word.size(); ++i) {
        const bool here = i + 1 < word.size() && word[i] == left && word[i + 1] == right;
        merged.push_back(here ? id : word[i]);
        i += here;
      }
      word = merged;
    }
  }
  return Strings(bytes.begin() + 3 + 256, bytes.end());
}

// Counts: (a,b) 6 times, (b,c) 4, (' ',a) 4, (x,y) 2, ...
TEST(BpeTrainer, MergesTheMostFrequentPairThenTheSmallest) {
  const Tokenizer tokenizer = train("ab abc abc abc abcxy ab", {.vocab_size = 259 + 4});
  EXPECT_EQ(learnt(tokenizer), (Strings{"ab", " ab", " abc"}));
  // (' ',e), (c,d) and (e,f) all occur twice; the blank is the smallest byte.
  EXPECT_EQ(learnt(train("cd ef cd ef", {.vocab_size = 259 + 2})), (Strings{" e", "cd"}));
}

TEST(BpeTrainer, IdsAreSpecialsThenBytesThenMerges) {
  const Tokenizer& tokenizer = testing::small_tokenizer();
  EXPECT_EQ(tokenizer.vocab_size(), 600);
  EXPECT_EQ(tokenizer.special_id(kBosToken), 0);
  EXPECT_EQ(tokenizer.special_id(kEosToken), 1);
  EXPECT_EQ(tokenizer.special_id(kPadToken), 2);
  for (int b = 0; b < 256; ++b) {
    EXPECT_EQ(tokenizer.token_bytes(3 + b), std::string(1, static_cast<char>(b)));
  }
  const auto& bytes = tokenizer.parts().token_bytes;
  EXPECT_EQ(std::set<std::string>(bytes.begin(), bytes.end()).size(), bytes.size());
}

TEST(BpeTrainer, FollowsTheRule) {
  std::mt19937 random(11);
  for (int round = 0; round < 24; ++round) {
    std::string text = testing::random_prose(random, 200);
    if (round % 3 == 1) text = testing::random_bytes(random, 1500);
    if (round % 3 == 2) {  // overlapping pairs
      text.clear();
      for (int i = 0; i < 2000; ++i) text += "aaaaaaab "[random() % 9];
    }
    ASSERT_EQ(learnt(train(text, {.vocab_size = 259 + 90})), slow_train(text, 90)) << round;
  }
}

TEST(BpeTrainer, ThreadsDoNotChangeTheResult) {
  std::mt19937 random(12);
  Strings texts;
  for (int i = 0; i < 3; ++i) texts.push_back(testing::random_prose(random, 150'000));
  texts.push_back("");
  const std::vector<std::string_view> views(texts.begin(), texts.end());
  const std::string one = train_bpe(views, {.vocab_size = 500, .num_threads = 1}).to_json();
  const std::string three = train_bpe(views, {.vocab_size = 500, .num_threads = 3}).to_json();
  EXPECT_EQ(one, three);
}

TEST(BpeTrainer, LittleTextGivesASmallVocabulary) {
  EXPECT_EQ(train("", {.vocab_size = 1000}).vocab_size(), 259);
  EXPECT_EQ(train("a bcd", {.vocab_size = 1000}).vocab_size(), 259);
  EXPECT_EQ(learnt(train("once upon", {.vocab_size = 1000})), Strings{"on"});
}

TEST(BpeTrainer, ACapReadsASpreadPart) {
  std::string text;
  for (int i = 0; i < 100'000; ++i) text += i < 50'000 ? "early words " : "later things ";
  const Tokenizer some = train(text, {.vocab_size = 300, .max_text_bytes = 600'000});
  EXPECT_EQ(some.encode(" early").size(), 1u);
  EXPECT_EQ(some.encode(" later").size(), 1u);
  const Tokenizer first_chunk = train(text, {.vocab_size = 300, .max_text_bytes = 10});
  EXPECT_EQ(first_chunk.encode(" early").size(), 1u);
  EXPECT_GT(first_chunk.encode(" later").size(), 1u);
}

TEST(BpeTrainer, ALongRunOfLettersIsNoTrap) {
  std::mt19937 random(13);
  std::string text;
  for (int i = 0; i < 1'000'000; ++i) text += static_cast<char>('a' + random() % 5);
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(train(text, {.vocab_size = 1000}).vocab_size(), 1000);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  EXPECT_LT(seconds.count(), 20.0);
}

TEST(BpeTrainer, RefusesSizesOutOfRange) {
  EXPECT_THROW(train("x", {.vocab_size = 258}), ConfigError);
  EXPECT_THROW(train("x", {.vocab_size = 300, .num_threads = 0}), ConfigError);
}

}  // namespace
}  // namespace quern
