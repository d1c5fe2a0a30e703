// SPDX-License-Identifier: MIT
#include "tests/fuzz/large_inputs.h"

#include <string_view>

namespace quern::fuzz {
namespace {

// head, unit over and over, tail. "#" in the unit stands for the number of the repetition.
struct Pattern {
  const char* head;
  const char* unit;
  const char* tail;
};

constexpr const char* kHash = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

constexpr Pattern kPatterns[] = {
    // text
    {"", "a", ""},
    {"", " ", ""},
    {"", " ", "a"},
    {"", "\n", "a"},
    {"", "\r\n", ""},
    {"", "\t \n", "x"},
    {"", "7", ""},
    {"", "!", ""},
    {"", "!\n", ""},
    {"", "'", ""},
    {"", "the ", ""},
    {"", "the", ""},
    {"", "\xe6\xbc\xa2", ""},  // a CJK character
    {"e", "\xcc\x81", ""},     // an accent
    {"", "\xff", ""},
    {"", "\xf0\x9f", ""},
    {"", "<|bos|>", ""},
    {"", "<|bos|", ""},
    {"", "# a\n", ""},
    // JSON, one line
    {"", "[", ""},
    {"", "{\"a\":", ""},
    {"", "\"", ""},
    {"\"", "\\", ""},
    {"{\"text\":\"", "a", "\"}"},
    {"{\"text\":\"", "a", ""},
    {"{\"text\":\"", "\\u0041", "\"}"},
    {"{\"text\":\"", "\\ud83d\\ude00", "\"}"},
    {"{\"text\":\"", "\\ud800", "\"}"},
    {"{\"text\":\"", "\xff", "\"}"},
    {"{\"text\":", "1", "}"},
    {"{\"text\":\"a\",\"", "k", "\":0}"},
    {"{\"text\":\"a\",\"b\":[", "0,", "0]}"},
    {"{\"text\":\"a\",\"b\":[", "[],", "0]}"},
    {"{\"text\":\"a\",\"b\":[", "{},", "0]}"},
    {"{\"text\":\"a\",\"b\":[", "\"\",", "0]}"},
    {"{\"text\":\"a\",\"b\":[", "\"0123456789abcdef\",", "0]}"},
    {"{\"text\":\"a\",\"b\":[", "{\"\":0},", "0]}"},
    {"{\"text\":\"a\",\"b\":{", "\"#\":0,", "\"\":0}}"},
    {"{\"text\":\"a\",", "\"#\":0,", "\"\":0}"},
    {"{\"text\":\"a\",", "\"a\":0,", "\"\":0}"},
    {"", "{\"text\":\"a\"}\n", ""},
    {"", "{}\n", ""},
    // config.json
    {R"({"rope_scaling":{"type":")", "a", "\"}}"},
    {R"({"vocab_size":)", "9", "}"},
    // tokenizer.json
    {R"({"pre_tokenizer":{"type":"Split","behavior":"Isolated","pattern":{"Regex":")", "\\\\r",
     "\"}}}"},
    {R"({"pre_tokenizer":{"type":"Sequence","pretokenizers":[)",
     R"({"type":"Digits","individual_digits":true},)", "0]}}"},
    {R"({"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false},)"
     R"("decoder":{"type":"ByteLevel"},"model":{"merges":[],"vocab":{@BYTES@}},"added_tokens":[)",
     R"({"id":#,"content":"c#"},)", R"({"id":256,"content":"c"}]})"},
    {R"({"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false},)"
     R"("decoder":{"type":"ByteLevel"},"model":{"merges":[],"vocab":{@BYTES@)",
     ",\"z#\":#", "}}}"},
    {R"({"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false},)"
     R"("decoder":{"type":"ByteLevel"},"model":{"vocab":{@BYTES@,"th":256},"merges":["t h")",
     ",\"t h\"", "]}}"},
    {R"({"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false},)"
     R"("decoder":{"type":"ByteLevel"},"model":{"vocab":{@BYTES@},"merges":[")",
     "a", " b\"]}}"},
    // recipes and overrides
    {"", "model {", ""},
    {"", "unknown {", ""},
    {"", "model: [", ""},
    {"", "model { } ", ""},
    {"model { vocab_size: ", "-", "1 }"},
    {"model { vocab_size: ", "9", " }"},
    {"data { tokenizer: \"", "a", "\" }"},
    {"data { tokenizer: \"", "\\x41", "\" }"},
    {"data { tokenizer: ", "\"a\" ", "}"},
    {"data { ", "validation: \"a\" ", "}"},
    {"data { ", "train { path: \"a\" } ", "}"},
    {"data { validation: [ \"a\"", ", \"a\"", " ] }"},
    {"optim { ", "multistep_fractions: 0.5 ", "}"},
    {"optim { multistep_fractions: [0", ",0", "] }"},
    {"", "\t", "model { x: 1 }"},
    {"", "\n", "model { x: 1 }"},
    {"", "optim.lr=1\n", ""},
    {"", "a.", "b=1"},
    {"data.tokenizer=", "a", ""},
    {"data.validation=[\"a\"", ",\"a\"", "]"},
    {"optim.lr=", "[", ""},
    {"optim.lr=", "1", ""},
    {"", "a", "=1"},
    // MANIFEST
    {"# quern manifest 1\n", kHash, "\n"},
    {"# quern manifest 1\n",
     "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef  f#\n", "# sha256 @HASH@\n"},
    {"# quern manifest 1\n0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef  ", "a",
     "\n# sha256 @HASH@\n"},
    {"# quern manifest 1\n", "# sha256 @HASH@\n", ""},
};

std::string repeated(const Pattern& pattern, std::size_t bytes) {
  std::string text = pattern.head;
  const std::string_view unit = pattern.unit;
  const std::size_t mark = unit.size() > 1 ? unit.find('#') : std::string_view::npos;
  const bool counts = mark != std::string_view::npos && unit[0] != '#';
  for (int i = 0; text.size() + unit.size() < bytes; ++i) {
    if (!counts) {
      text += unit;
      continue;
    }
    const std::string number = std::to_string(10000 + i);  // their order is that of the texts
    for (const char c : unit) {
      if (c == '#') {
        text += number;
      } else {
        text += c;
      }
    }
  }
  return text + pattern.tail;
}

}  // namespace

void for_each_large_input(std::size_t bytes,
                          const std::function<void(const std::string&, const std::string&)>& f) {
  for (const Pattern& pattern : kPatterns) {
    f(std::string(pattern.head) + pattern.unit + "..." + pattern.tail, repeated(pattern, bytes));
  }
}

}  // namespace quern::fuzz
