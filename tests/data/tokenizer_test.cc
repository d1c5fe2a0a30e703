// SPDX-License-Identifier: MIT
// Encoding against a word-for-word slow version, round trips, added tokens, time.
#include "quern/data/tokenizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <ctime>
#include <map>
#include <thread>

#include "quern/autograd/error.h"
#include "quern/data/internal/tokenizer_tables.h"
#include "quern/data/pretokenize.h"
#include "tests/data/tokenizer_fixture.h"

namespace quern {
namespace {

using Ids = std::vector<i32>;
using testing::small_tokenizer;

TokenizerParts bytes_only() {
  TokenizerParts parts;
  for (int b = 0; b < 256; ++b) parts.token_bytes.emplace_back(1, static_cast<char>(b));
  return parts;
}

void add_merge(TokenizerParts& parts, i32 left, i32 right) {
  const auto result = static_cast<i32>(parts.token_bytes.size());
  parts.token_bytes.push_back(parts.token_bytes[left] + parts.token_bytes[right]);
  parts.merges.push_back({left, right, result});
}

// The rule word for word: look for the lowest rank, merge its leftmost pair, begin again.
Ids slow_encode(const Tokenizer& tokenizer, std::string_view text) {
  std::map<std::pair<i32, i32>, std::size_t> ranks;
  const auto& merges = tokenizer.parts().merges;
  for (std::size_t r = 0; r < merges.size(); ++r) ranks[{merges[r].left, merges[r].right}] = r;
  std::map<std::string, i32> bytes;
  for (i32 id = 0; id < tokenizer.vocab_size(); ++id) bytes.emplace(tokenizer.token_bytes(id), id);
  Ids all;
  for_each_piece(Splitting::kGpt2, text, [&](std::string_view piece) {
    Ids ids;
    for (const char c : piece) ids.push_back(bytes.at(std::string(1, c)));
    for (;;) {
      std::size_t best = merges.size(), at = 0;
      for (std::size_t i = 0; i + 1 < ids.size(); ++i) {
        const auto found = ranks.find({ids[i], ids[i + 1]});
        if (found != ranks.end() && found->second < best) best = found->second, at = i;
      }
      if (best == merges.size()) break;
      ids[at] = merges[best].result;
      ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(at) + 1);
    }
    all.insert(all.end(), ids.begin(), ids.end());
  });
  return all;
}

TEST(Tokenizer, DecodingGivesBackAnyBytes) {
  std::mt19937 random(2);
  const Tokenizer& tokenizer = small_tokenizer();
  for (int round = 0; round < 400; ++round) {
    const int n = static_cast<int>(random() % 200);
    const std::string text = round % 3 == 0   ? testing::random_bytes(random, n)
                             : round % 3 == 1 ? testing::random_unicode(random, n)
                                              : testing::random_prose(random, n) + "<|eos|><|bos";
    for (const AddedTokens mode : {AddedTokens::kRecognise, AddedTokens::kIgnore}) {
      ASSERT_EQ(tokenizer.decode(tokenizer.encode(text, mode)), text) << round;
    }
  }
}

TEST(Tokenizer, LowestRankMergesFirstThenLeftmost) {
  TokenizerParts parts = bytes_only();
  add_merge(parts, 'b', 'c');  // 256
  add_merge(parts, 'a', 'b');  // 257
  add_merge(parts, 'a', 256);  // 258
  add_merge(parts, 'z', 'z');  // 259
  const Tokenizer tokenizer(parts);
  EXPECT_EQ(tokenizer.encode("abc"), (Ids{258}));
  EXPECT_EQ(tokenizer.encode("abd"), (Ids{257, 'd'}));
  EXPECT_EQ(tokenizer.encode("zzz"), (Ids{259, 'z'}));
  EXPECT_EQ(tokenizer.encode("zzzz"), (Ids{259, 259}));
  EXPECT_EQ(tokenizer.encode("b c"), (Ids{'b', ' ', 'c'})) << "no merge across pieces";
}

TEST(Tokenizer, LongAndShortPiecesFollowTheRule) {
  std::mt19937 random(3);
  const Tokenizer& tokenizer = small_tokenizer();
  for (int round = 0; round < 100; ++round) {
    std::string text = testing::random_prose(random, 30);
    if (round % 2) std::erase_if(text, [](char c) { return c == ' ' || c == '\n' || c == ','; });
    ASSERT_EQ(tokenizer.encode(text), slow_encode(tokenizer, text)) << text;
  }
}

TEST(Tokenizer, AddedTokensAreRecognisedInPromptsOnly) {
  const Tokenizer& tokenizer = small_tokenizer();
  const std::optional<i32> eos = tokenizer.special_id(kEosToken);
  ASSERT_EQ(eos, 1);
  EXPECT_EQ(tokenizer.special_id("<|nothing|>"), std::nullopt);
  Ids expected = tokenizer.encode("mother");
  expected.push_back(*eos);
  expected.push_back(*eos);
  for (const i32 id : tokenizer.encode(" ker")) expected.push_back(id);
  EXPECT_EQ(tokenizer.encode("mother<|eos|><|eos|> ker"), expected);
  for (const i32 id : tokenizer.encode("mother<|eos|><|pad|>", AddedTokens::kIgnore)) {
    EXPECT_GE(id, 3);
  }
}

TEST(Tokenizer, TheLongestAddedTokenWins) {
  TokenizerParts parts = bytes_only();
  for (const char* content : {"<a", "<a><b>", "<a>", "<ab"}) {
    parts.added.push_back({static_cast<i32>(parts.token_bytes.size()), content});
    parts.token_bytes.emplace_back(content);
  }
  const Tokenizer tokenizer(parts);
  EXPECT_EQ(tokenizer.encode("<a><b><a><c<a"), (Ids{257, 258, '<', 'c', 256}));
  EXPECT_EQ(tokenizer.encode("<<ab<"), (Ids{'<', 259, '<'}));
}

TEST(Tokenizer, AddedTokensTakeWhiteSpaceAlong) {
  TokenizerParts parts = bytes_only();
  const auto add = [&parts](TokenizerParts::Added added) {
    added.id = static_cast<i32>(parts.token_bytes.size());
    parts.token_bytes.push_back(added.content);
    parts.added.push_back(added);
  };
  add({.content = "<l>", .lstrip = true});      // 256
  add({.content = "<r>", .rstrip = true});      // 257
  add({.content = "n<l", .normalized = true});  // 258
  const Tokenizer tokenizer(parts);
  EXPECT_EQ(tokenizer.encode("a \u3000<l> b"), (Ids{'a', 256, ' ', 'b'}));
  EXPECT_EQ(tokenizer.encode("a <r>\n b"), (Ids{'a', ' ', 257, 'b'}));
  EXPECT_EQ(tokenizer.encode("<r>  <l> "), (Ids{257, 256, ' '}));
  EXPECT_EQ(tokenizer.encode("n<l>n<l"), (Ids{'n', 256, 258})) << "normalized ones come second";
  EXPECT_EQ(tokenizer.special_id("n<l"), 258);
  parts.added[0].content = parts.token_bytes[256] = " <l>";
  EXPECT_THROW(Tokenizer{parts}, DataError);
}

TEST(Tokenizer, BytesOfNoUtf8NeedNoToken) {
  TokenizerParts parts = bytes_only();
  parts.token_bytes[0xf5] = "";
  const Tokenizer tokenizer(parts);
  EXPECT_EQ(tokenizer.encode("a\xf5\xff"), (Ids{'a', 0xef, 0xbf, 0xbd, 0xff}));
  parts.token_bytes[0xf4] = "";
  EXPECT_THROW(Tokenizer{parts}, DataError);
}

TEST(Tokenizer, AnEncoderRemembersWordsWithoutChangingIds) {
  std::mt19937 random(4);
  Encoder tiny(small_tokenizer(), 2);
  Encoder large(small_tokenizer());
  for (int round = 0; round < 20; ++round) {
    const std::string text = testing::random_prose(random, 50) + testing::random_unicode(random, 9);
    Ids from_tiny, from_large;
    tiny.encode(text, AddedTokens::kIgnore, from_tiny);
    large.encode(text, AddedTokens::kIgnore, from_large);
    ASSERT_EQ(from_tiny, small_tokenizer().encode(text, AddedTokens::kIgnore));
    ASSERT_EQ(from_large, from_tiny);
  }
}

TEST(Tokenizer, ThreadsShareOne) {
  std::mt19937 random(5);
  const std::string text = testing::random_prose(random, 3000);
  const Ids expected = small_tokenizer().encode(text);
  std::vector<Ids> results(4);
  std::vector<std::thread> threads;
  for (Ids& result : results) {
    threads.emplace_back([&] { result = small_tokenizer().encode(text); });
  }
  for (auto& thread : threads) thread.join();
  for (const Ids& result : results) EXPECT_EQ(result, expected);
}

// 'a' to 'h' in a random order, merged by a few hundred random merges; `rising` or not.
TokenizerParts random_merges(std::mt19937& random, bool rising) {
  TokenizerParts parts = bytes_only();
  std::vector<i32> tokens = {'a', 'b', 'c'};
  std::map<std::string, i32> known;
  while (parts.merges.size() < 60) {
    const i32 left = tokens[random() % tokens.size()], right = tokens[random() % tokens.size()];
    const std::string bytes = parts.token_bytes[left] + parts.token_bytes[right];
    if (bytes.size() > 12 || !known.emplace(bytes, 0).second) continue;
    add_merge(parts, left, right);
    tokens.push_back(parts.merges.back().result);
  }
  if (!rising) std::shuffle(parts.merges.begin(), parts.merges.end(), random);
  return parts;
}

// Each way of merging gives the ids of the rule taken word for word.
TEST(Tokenizer, AllWaysOfMergingFollowTheRule) {
  std::mt19937 random(8);
  for (int round = 0; round < 60; ++round) {
    const bool rising = round % 2;
    const Tokenizer tokenizer(random_merges(random, rising));
    const internal::TokenizerTables tables(tokenizer.parts(), "t");
    ASSERT_TRUE(!rising || tables.merges_rise);
    std::string piece;
    for (unsigned n = 1 + random() % 300; n > 0; --n) {
      piece.append(1 + random() % 9, "abc"[random() % 3]);
    }
    const Ids expected = slow_encode(tokenizer, piece);
    Ids ids;
    internal::encode_short_piece(tables, piece, ids);
    ASSERT_EQ(ids, expected) << round;
    ids.clear();
    internal::encode_long_piece(tables, piece, ids);
    ASSERT_EQ(ids, expected) << round;
    if (!rising) continue;
    ids.clear();
    internal::encode_very_long_piece(tables, piece, ids);
    ASSERT_EQ(ids, expected) << round;
  }
}

// Four million take four times as long as one, with slack for caches; a quadratic merge would take
// sixteen times as long, and hours. Processor time: other programs do not count.
TEST(Tokenizer, EqualLettersTakeLinearTime) {
  TokenizerParts parts = bytes_only();
  add_merge(parts, 'a', 'a');
  for (i32 id = 256; id < 262; ++id) add_merge(parts, id, id);
  const Tokenizer tokenizer(parts);
  const auto seconds = [&tokenizer](std::size_t letters) {
    const std::clock_t begin = std::clock();
    const Ids ids = tokenizer.encode(std::string(letters, 'a'));
    const double took = double(std::clock() - begin) / CLOCKS_PER_SEC;
    Ids expected(letters / 128, 262);  // 64 letters are left over
    expected.push_back(261);
    EXPECT_EQ(ids, expected);
    return took;
  };
  const double one = std::min(seconds(1'000'000), seconds(1'000'000));
  const double four = std::min(seconds(4'000'064), seconds(4'000'064));
  EXPECT_LT(four / one, 8.0);
  EXPECT_LT(four, 10.0);
}

TEST(Tokenizer, RefusesIdsOutsideTheVocabulary) {
  EXPECT_THROW(small_tokenizer().decode(Ids{0, -1}), DataError);
  EXPECT_THROW(small_tokenizer().token_bytes(small_tokenizer().vocab_size()), DataError);
}

TEST(Tokenizer, RefusesPartsThatDoNotFit) {
  TokenizerParts no_byte = bytes_only();
  no_byte.token_bytes['q'] = "qq";
  EXPECT_THROW(Tokenizer{no_byte}, DataError);

  TokenizerParts wrong_result = bytes_only();
  wrong_result.merges.push_back({'a', 'b', 'c'});
  EXPECT_THROW(Tokenizer{wrong_result}, DataError);

  TokenizerParts out_of_range = bytes_only();
  out_of_range.merges.push_back({'a', 256, 'c'});
  EXPECT_THROW(Tokenizer{out_of_range}, DataError);

  TokenizerParts twice = bytes_only();
  add_merge(twice, 'a', 'b');
  twice.merges.push_back(twice.merges[0]);
  EXPECT_THROW(Tokenizer{twice}, DataError);

  TokenizerParts special_result = bytes_only();
  add_merge(special_result, 'a', 'b');
  special_result.added.push_back({256, "ab", true});
  EXPECT_THROW(Tokenizer{special_result}, DataError);
  special_result.added[0].special = false;
  EXPECT_NO_THROW(Tokenizer{special_result});

  TokenizerParts two_ids = bytes_only();
  for (const i32 id : {256, 257}) {
    two_ids.token_bytes.push_back("<x>");
    two_ids.added.push_back({id, "<x>"});
  }
  EXPECT_THROW(Tokenizer{two_ids}, DataError);
}

}  // namespace
}  // namespace quern
