// SPDX-License-Identifier: MIT
// Splittings worked out by hand, and cuts that leave them as they are.
#include "quern/data/pretokenize.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/data/tokenizer_fixture.h"

namespace quern {
namespace {

using Pieces = std::vector<std::string>;

Pieces pieces(std::string_view text) {
  Pieces all;
  for_each_piece(text, [&](std::string_view piece) { all.emplace_back(piece); });
  return all;
}

// Worked out by hand from the expression.
TEST(Pretokenize, KnownSplittings) {
  EXPECT_EQ(pieces(""), Pieces{});
  EXPECT_EQ(pieces("Hello  world's 12 cats\n\n x"),
            (Pieces{"Hello", " ", " world", "'s", " 12", " cats", "\n\n", " x"}));
  EXPECT_EQ(pieces("abc123def"), (Pieces{"abc", "123", "def"}));
  EXPECT_EQ(pieces("a, b!? c."), (Pieces{"a", ",", " b", "!?", " c", "."}));
}

TEST(Pretokenize, Contractions) {
  EXPECT_EQ(pieces("I've we'll you're he'd I'm isn't it's"),
            (Pieces{"I", "'ve", " we", "'ll", " you", "'re", " he", "'d", " I", "'m", " isn", "'t",
                    " it", "'s"}));
  EXPECT_EQ(pieces("IT'S 'lo 'v"), (Pieces{"IT", "'", "S", " '", "lo", " '", "v"}));
  EXPECT_EQ(pieces("'street"), (Pieces{"'s", "treet"}));
  EXPECT_EQ(pieces("!'s ''s"), (Pieces{"!'", "s", " ''", "s"}));
}

TEST(Pretokenize, WhiteSpace) {
  EXPECT_EQ(pieces("a   b"), (Pieces{"a", "  ", " b"}));
  EXPECT_EQ(pieces("a   "), (Pieces{"a", "   "}));
  EXPECT_EQ(pieces("a\nb"), (Pieces{"a", "\n", "b"}));
  EXPECT_EQ(pieces("a\n\n\nb"), (Pieces{"a", "\n\n", "\n", "b"}));
  EXPECT_EQ(pieces("a\t\tb \n"), (Pieces{"a", "\t", "\t", "b", " \n"}));
  EXPECT_EQ(pieces(" \t 7"), (Pieces{" \t", " 7"}));
  EXPECT_EQ(pieces(" "), (Pieces{" "}));
}

TEST(Pretokenize, UnicodeClasses) {
  EXPECT_EQ(pieces("caf\u00e9 \u00c9t\u00e9"), (Pieces{"caf\u00e9", " \u00c9t\u00e9"}));
  EXPECT_EQ(pieces("\u6f22\u5b57\u304b\u306a 12\u5e74"),
            (Pieces{"\u6f22\u5b57\u304b\u306a", " 12", "\u5e74"}));
  EXPECT_EQ(pieces("hi \U0001f600\U0001f600!"), (Pieces{"hi", " \U0001f600\U0001f600!"}));
  EXPECT_EQ(pieces("x\u00b2\u2167\u0663"), (Pieces{"x", "\u00b2\u2167\u0663"}));  // No, Nl, Nd
  // A combining mark is neither letter nor number.
  EXPECT_EQ(pieces("e\u0301a"), (Pieces{"e", "\u0301", "a"}));
  // Only U+0020 goes with the word after it; U+0085 is white space, U+180E and U+200B are not.
  EXPECT_EQ(pieces("a\u00a0b"), (Pieces{"a", "\u00a0", "b"}));
  EXPECT_EQ(pieces("a \u3000b"), (Pieces{"a", " ", "\u3000", "b"}));
  EXPECT_EQ(pieces("a\u0085\u2028 b"), (Pieces{"a", "\u0085\u2028", " b"}));
  EXPECT_EQ(pieces("a\u180e\u200bb"), (Pieces{"a", "\u180e\u200b", "b"}));
}

TEST(Pretokenize, BadBytesAreCharactersOfTheirOwn) {
  EXPECT_EQ(pieces("a\xff\xfe b"), (Pieces{"a", "\xff\xfe", " b"}));
  EXPECT_EQ(pieces("a \xc3"), (Pieces{"a", " \xc3"}));                // cut short
  EXPECT_EQ(pieces("\xed\xa0\x80z"), (Pieces{"\xed\xa0\x80", "z"}));  // a surrogate
  EXPECT_EQ(pieces("\xc1\x81z"), (Pieces{"\xc1\x81", "z"}));          // overlong 'A'
}

TEST(Pretokenize, SafeCutsLeaveThePiecesAsTheyAre) {
  std::mt19937 random(7);
  for (int round = 0; round < 300; ++round) {
    const std::string text = testing::random_unicode(random, 40) +
                             testing::random_prose(random, 10) + testing::random_bytes(random, 5);
    const std::size_t cut = next_safe_cut(text, random() % text.size());
    Pieces halves = pieces(std::string_view(text).substr(0, cut));
    for (auto& piece : pieces(std::string_view(text).substr(cut))) halves.push_back(piece);
    ASSERT_EQ(halves, pieces(text)) << round;
  }
  EXPECT_EQ(next_safe_cut("one two", 0), 3u);
  EXPECT_EQ(next_safe_cut("one two", 4), 7u);
  EXPECT_EQ(next_safe_cut("", 0), 0u);
}

}  // namespace
}  // namespace quern
