// SPDX-License-Identifier: MIT
// Splittings by the three rules worked out by hand, and cuts that leave them as they are.
#include "quern/data/pretokenize.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/data/tokenizer_fixture.h"

namespace quern {
namespace {

using Pieces = std::vector<std::string>;

Pieces pieces(std::string_view text, Splitting splitting = Splitting::kGpt2) {
  Pieces all;
  for_each_piece(splitting, text, [&](std::string_view piece) { all.emplace_back(piece); });
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

Pieces llm(std::string_view text) { return pieces(text, Splitting::kDeepseekLlm); }
Pieces v3(std::string_view text) { return pieces(text, Splitting::kDeepseekV3); }

TEST(Pretokenize, DeepseekV3) {
  EXPECT_EQ(v3("Hello  world's 12345 (abc) x\u00e9"),
            (Pieces{"Hello", " ", " world", "'s", " ", "123", "45", " (", "abc", ")", " x\u00e9"}));
  EXPECT_EQ(v3("a.b_c->d!!e(\u00e9"),
            (Pieces{"a", ".b", "_c", "->", "d", "!!", "e", "(", "\u00e9"}));
  EXPECT_EQ(v3("x);\r\n\n  y \n \t z\t"),
            (Pieces{"x", ");\r\n\n", " ", " y", " \n", " \t", " z", "\t"}));
  EXPECT_EQ(v3("\tif  (\ta"), (Pieces{"\tif", " ", " (", "\ta"}));
  EXPECT_EQ(v3("a  1  "), (Pieces{"a", "  ", "1", "  "}));  // a number ends the text before it
  EXPECT_EQ(v3("\u6f22\u5b57\u304b \u30ab\u30fb\u30cau"),
            (Pieces{"\u6f22\u5b57\u304b", " ", "\u30ab", "\u30fb", "\u30ca", "u"}));
  EXPECT_EQ(v3("e\u0301a \u0301\u0301 \u0301"), (Pieces{"e\u0301a", " \u0301\u0301", " \u0301"}));
  // Controls are matched by nothing, but one goes with the word after it.
  EXPECT_EQ(v3("\x01\x02\x03yz\x01 \x02"), (Pieces{"\x01\x02", "\x03yz", "\x01", " ", "\x02"}));
  EXPECT_EQ(v3("\xff\xfe-\xffz"), (Pieces{"\xff\xfe", "-", "\xffz"}));
}

TEST(Pretokenize, DeepseekLlm) {
  EXPECT_EQ(llm("Hello  world's 12\n\n x"),
            (Pieces{"Hello", " ", " world", "'", "s", " ", "1", "2", "\n", "\n", " x"}));
  EXPECT_EQ(llm("a, b!?c\td"), (Pieces{"a", ",", " b", "!?", "c", "\td"}));
  // The marks' [:-~] holds the letters of ASCII, so others come apart from them.
  EXPECT_EQ(llm("n\u00e9e \u00c9t"), (Pieces{"n", "\u00e9", "e", " \u00c9", "t"}));
  EXPECT_EQ(llm("\u4f60\u597d\uff0c x \u0430\u0431"),
            (Pieces{"\u4f60\u597d", "\uff0c", " x", " \u0430\u0431"}));
  EXPECT_EQ(llm("\u0391 \u1f59b"), (Pieces{"\u0391", " ", "\u1f59", "b"}));  // CJK begins at 0800
  EXPECT_EQ(llm("\x01  b\x01 \x02 \n"),
            (Pieces{"\x01", " ", " b", "\x01 \x02", " ", "\n"}));  // white space at an end
  EXPECT_EQ(llm("!\u3000\u3000\u0627"), (Pieces{"!", "\u3000\u3000", "\u0627"}));
  EXPECT_EQ(llm("\u3002\u3000\u3002\u3000"), (Pieces{"\u3002\u3000\u3002", "\u3000"}));
  EXPECT_EQ(llm("\u00b2\u2167\u0663x"), (Pieces{"\u00b2", "\u2167", "\u0663", "x"}));
}

TEST(Pretokenize, NamesOfTheRules) {
  for (const auto s : {Splitting::kGpt2, Splitting::kDeepseekLlm, Splitting::kDeepseekV3}) {
    EXPECT_EQ(splitting_named(name_of(s)), s);
  }
  EXPECT_EQ(splitting_named("llama3"), std::nullopt);
}

TEST(Pretokenize, SafeCutsLeaveThePiecesAsTheyAre) {
  std::mt19937 random(7);
  for (int round = 0; round < 900; ++round) {
    const auto splitting = Splitting(round % 3);
    const std::string text = testing::random_unicode(random, 40) +
                             testing::random_prose(random, 10) + testing::random_bytes(random, 5);
    const std::size_t cut = next_safe_cut(text, random() % text.size());
    Pieces halves = pieces(std::string_view(text).substr(0, cut), splitting);
    for (auto& piece : pieces(std::string_view(text).substr(cut), splitting)) {
      halves.push_back(piece);
    }
    const Pieces whole = pieces(text, splitting);
    ASSERT_EQ(halves, whole) << round;
    std::string together;
    for (const auto& piece : whole) together += piece;
    ASSERT_EQ(together, text) << round;
  }
  EXPECT_EQ(next_safe_cut("one two", 0), 3u);
  EXPECT_EQ(next_safe_cut("one two", 4), 7u);
  EXPECT_EQ(next_safe_cut("", 0), 0u);
}

}  // namespace
}  // namespace quern
