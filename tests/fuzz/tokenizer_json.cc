// SPDX-License-Identifier: MIT
// tokenizer.json. "@BYTES@" in the input stands for the 256 entries that every vocabulary needs, so
// that inputs stay short. What is taken can be written and read again, and encodes text.
#include <string>
#include <string_view>

#include "quern/data/internal/byte_alphabet.h"
#include "quern/data/tokenizer.h"
#include "tests/fuzz/guard.h"

using namespace quern;

namespace {

const std::string& byte_entries() {
  static const std::string entries = [] {
    std::string text;
    for (int byte = 0; byte < 256; ++byte) {
      std::string spelt = to_byte_alphabet(std::string(1, char(byte)));
      if (spelt == "\"" || spelt == "\\") spelt = "\\" + spelt;
      text += (byte > 0 ? ",\"" : "\"") + spelt + "\":" + std::to_string(byte);
    }
    return text;
  }();
  return entries;
}

std::string expanded(std::string_view input) {
  constexpr std::string_view kMark = "@BYTES@";
  std::string text(input);
  const std::size_t at = text.find(kMark);  // the first; a second would only repeat keys
  if (at != std::string::npos) text.replace(at, kMark.size(), byte_entries());
  return text;
}

void check(const Tokenizer& tokenizer) {
  std::string sample = "the theme isn't 1234 été\n\n  漢字";
  bool strips = false;  // an added token that takes blanks along
  for (const auto& added : tokenizer.parts().added) {
    if (sample.size() < 2000) sample += added.content + " x";
    strips |= added.lstrip || added.rstrip;
  }
  const auto comes_back = [&](AddedTokens mode) {
    return tokenizer.decode(tokenizer.encode(sample, mode)) == sample;
  };
  fuzz::require(comes_back(AddedTokens::kIgnore), "decoding gives the text back");
  fuzz::require(comes_back(AddedTokens::kRecognise) || strips, "with its added tokens too");
  tokenizer.encode(sample + "\xff\xfe");  // may have no tokens
  const std::string written = tokenizer.to_json();
  fuzz::must_succeed("a written tokenizer can be read", [&] {
    const std::string again = Tokenizer::from_json(written, "written.json").to_json();
    fuzz::require(again == written, "a written tokenizer is the same tokenizer");
  });
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text = expanded(fuzz::text_of(data, size));
  fuzz::guarded(text.size(), [&] { check(Tokenizer::from_json(text, "tokenizer.json")); });
  return 0;
}
