// SPDX-License-Identifier: MIT
// Streaming: whole characters, and nothing of a stop string.
#include "quern/recipes/text_stream.h"

#include <gtest/gtest.h>

namespace quern {
namespace {

// What is shown after each push, with '|' between the pieces, and after the end.
std::string shown(std::vector<std::string> stop, const std::vector<std::string>& tokens) {
  std::string all;
  TextStream stream(std::move(stop), [&](const std::string& piece) { all += piece + "|"; });
  for (const std::string& token : tokens) {
    if (stream.push(token)) break;
  }
  all += ".";
  stream.finish();
  return all;
}

TEST(TextStream, ShowsWholeCharacters) {
  EXPECT_EQ(shown({}, {"a", "bc"}), "a|bc|.");
  EXPECT_EQ(shown({}, {"a\xC3", "\xA9", "b"}), "a|\xC3\xA9|b|.");
  EXPECT_EQ(shown({}, {"\xE2", "\x82", "\xAC"}), "\xE2\x82\xAC|.");
  EXPECT_EQ(shown({}, {"\xF0\x9F", "\x98", "\x80!"}), "\xF0\x9F\x98\x80!|.");
  EXPECT_EQ(shown({}, {"a\xE2\x82"}), "a|.\xE2\x82|");      // the end comes first
  EXPECT_EQ(shown({}, {"\x82\xA9", "x"}), "\x82\xA9|x|.");  // these begin nothing
  EXPECT_EQ(shown({}, {"\xFF", "x"}), "\xFF|x|.");
}

TEST(TextStream, HoldsBackWhatMayBeAStopString) {
  EXPECT_EQ(shown({"END"}, {"aE", "N", "x"}), "a|ENx|.");
  EXPECT_EQ(shown({"END"}, {"aE", "N", "Dx", "never"}), "a|.");
  EXPECT_EQ(shown({"END"}, {"aE", "NEN", "D"}), "a|EN|.");
  EXPECT_EQ(shown({"END"}, {"aE", "N"}), "a|.EN|");
  EXPECT_EQ(shown({"bc", "ab"}, {"xab"}), ".x|");  // the one that begins first
  EXPECT_EQ(shown({"\xE2\x82\xAC"}, {"1\xE2", "\x82\xAC"}), "1|.");
  EXPECT_EQ(shown({"\n\n"}, {"a\n", "b\n", "\n"}), "a|\nb|.");
}

TEST(TextStream, TextHasNoStopString) {
  TextStream stream({"ab"}, {});
  EXPECT_FALSE(stream.push("xa"));
  EXPECT_TRUE(stream.push("bcd"));
  EXPECT_EQ(stream.text(), "x");
}

}  // namespace
}  // namespace quern
