// SPDX-License-Identifier: MIT
// A table for ASCII, utf8proc's categories for the rest.
#include "quern/data/internal/unicode_classes.h"

#include <utf8proc.h>

#include <algorithm>
#include <span>

namespace quern::internal {
namespace {

struct Range {
  std::int32_t first;
  std::int32_t last;
};

// In the order in which the expressions of DeepSeek-LLM's tokenizer.json name them, which rises.
constexpr Range kLlmLetters[] = {
    {'A', 'Z'},         {'a', 'z'},         {0xb5, 0xb5},       {0xc0, 0xd6},
    {0xd8, 0xf6},       {0xf8, 0x1ba},      {0x1bc, 0x1bf},     {0x1c4, 0x293},
    {0x295, 0x2af},     {0x370, 0x373},     {0x376, 0x376},     {0x377, 0x377},
    {0x37b, 0x37d},     {0x37f, 0x37f},     {0x386, 0x386},     {0x388, 0x38a},
    {0x38c, 0x38c},     {0x38e, 0x3a1},     {0x3a3, 0x3f5},     {0x3f7, 0x481},
    {0x48a, 0x52f},     {0x531, 0x556},     {0x10a0, 0x10c5},   {0x13a0, 0x13f5},
    {0x13f8, 0x13fd},   {0x1c90, 0x1cba},   {0x1cbd, 0x1cbf},   {0x1d00, 0x1d2b},
    {0x1d6b, 0x1d77},   {0x1d79, 0x1d9a},   {0x1e00, 0x1f15},   {0x1f18, 0x1f1d},
    {0x1f20, 0x1f45},   {0x1f48, 0x1f4d},   {0x1f50, 0x1f57},   {0x1f59, 0x1f59},
    {0x1f5b, 0x1f5b},   {0x1f5d, 0x1f5d},   {0x1f5f, 0x1f7d},   {0x1f80, 0x1fb4},
    {0x1fb6, 0x1fbc},   {0x1fbe, 0x1fbe},   {0x1fc2, 0x1fc4},   {0x1fc6, 0x1fcc},
    {0x1fd0, 0x1fd3},   {0x1fd6, 0x1fdb},   {0x1fe0, 0x1fec},   {0x1ff2, 0x1ff4},
    {0x1ff6, 0x1ffc},   {0x2102, 0x2102},   {0x2107, 0x2107},   {0x210a, 0x2113},
    {0x2115, 0x2115},   {0x2119, 0x211d},   {0x2124, 0x2124},   {0x2126, 0x2126},
    {0x2128, 0x2128},   {0x212a, 0x212d},   {0x212f, 0x2134},   {0x2139, 0x2139},
    {0x213c, 0x213f},   {0x2145, 0x2149},   {0x214e, 0x214e},   {0x2183, 0x2183},
    {0x2184, 0x2184},   {0x2c00, 0x2c7b},   {0x2c7e, 0x2ce4},   {0x2ceb, 0x2cee},
    {0x2cf2, 0x2cf2},   {0x2cf3, 0x2cf3},   {0xa640, 0xa66d},   {0xa680, 0xa69b},
    {0xa722, 0xa76f},   {0xa771, 0xa787},   {0xa78b, 0xa78e},   {0xab70, 0xabbf},
    {0xfb00, 0xfb06},   {0xfb13, 0xfb17},   {0xff21, 0xff3a},   {0xff41, 0xff5a},
    {0x10400, 0x1044f}, {0x104b0, 0x104d3}, {0x104d8, 0x104fb}, {0x10c80, 0x10cb2},
    {0x10cc0, 0x10cf2}, {0x118a0, 0x118df}, {0x1e900, 0x1e943},
};
constexpr Range kLlmMarks[] = {{'!', '/'},       {':', '~'},       {0xff01, 0xff0f},
                               {0xff1a, 0xff5e}, {0x2018, 0x201f}, {0x3000, 0x3002}};
constexpr Range kRisingLlmMarks[] = {{'!', '/'},       {':', '~'},       {0x2018, 0x201f},
                                     {0x3000, 0x3002}, {0xff01, 0xff0f}, {0xff1a, 0xff5e}};

bool is_in(std::span<const Range> rising, std::int32_t code_point) {
  const auto at = std::ranges::lower_bound(rising, code_point, {}, &Range::last);
  return at != rising.end() && at->first <= code_point;
}

bool is_between(std::int32_t code_point, std::int32_t first, std::int32_t last) {
  return code_point >= first && code_point <= last;
}

std::string spelt(std::span<const Range> ranges) {
  std::string text;
  const auto append = [&text](std::int32_t code_point) {
    utf8proc_uint8_t bytes[4];
    text.append(reinterpret_cast<char*>(bytes),
                std::size_t(utf8proc_encode_char(code_point, bytes)));
  };
  for (const Range& range : ranges) {
    append(range.first);
    if (range.first == range.last) continue;
    text += '-';
    append(range.last);
  }
  return text;
}

constexpr std::int32_t kNextLine = 0x85;  // white space, although its category is "control"

Classes by_category(std::int32_t code_point) {
  const int category = utf8proc_category(code_point);
  if (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO) return kLetter;
  if (category >= UTF8PROC_CATEGORY_MN && category <= UTF8PROC_CATEGORY_ME) return kMark;
  if (category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO) return kNumber;
  if (category >= UTF8PROC_CATEGORY_PC && category <= UTF8PROC_CATEGORY_PO) return kPunctuation;
  if (category >= UTF8PROC_CATEGORY_SM && category <= UTF8PROC_CATEGORY_SO) return kSymbol;
  if (category >= UTF8PROC_CATEGORY_ZS && category <= UTF8PROC_CATEGORY_ZP) return kSpace;
  if (is_between(code_point, '\t', '\r') || code_point == kNextLine) return kSpace;
  return 0;
}

}  // namespace

std::string deepseek_llm_letters() { return spelt(kLlmLetters); }
std::string deepseek_llm_marks() { return spelt(kLlmMarks); }

Classes classes_of(std::int32_t code_point) {
  Classes classes = by_category(code_point);
  if (code_point == '\n' || code_point == '\r') classes |= kNewline;
  if (code_point < 128 && (classes & kLetter)) classes |= kAsciiLetter;
  if (is_between(code_point, 0x4e00, 0x9fa5) || is_between(code_point, 0x3040, 0x30ff)) {
    classes |= kV3Cjk;
  }
  return classes;
}

Classes classes_of_deepseek_llm(std::int32_t code_point) {
  Classes classes = by_category(code_point) & (kNumber | kSpace);
  if (code_point == '\n' || code_point == '\r') classes |= kNewline;
  if (is_in(kLlmLetters, code_point)) classes |= kLlmLetter;
  if (is_in(kRisingLlmMarks, code_point)) classes |= kLlmMark;
  if (is_between(code_point, 0x800, 0x9fa5) || is_between(code_point, 0xac00, 0xd7ff)) {
    classes |= kLlmCjk;
  }
  return classes;
}

constexpr std::array<Classes, 128> ascii_classes() {
  std::array<Classes, 128> classes{};
  for (int c = '!'; c <= '~'; ++c) {
    const bool symbol = std::string_view("$+<=>^`|~").find(char(c)) != std::string_view::npos;
    classes[c] = (symbol ? kSymbol : kPunctuation) | kLlmMark;
  }
  for (int c = '0'; c <= '9'; ++c) classes[c] = kNumber;
  for (int c = 'a'; c <= 'z'; ++c) {
    classes[c] = classes[c - 'a' + 'A'] = kLetter | kAsciiLetter | kLlmLetter | kLlmMark;
  }
  for (const char c : {' ', '\t', '\n', '\v', '\f', '\r'}) classes[c] = kSpace;
  classes['\n'] |= kNewline;
  classes['\r'] |= kNewline;
  return classes;
}

constinit const std::array<Classes, 128> kAsciiClasses = ascii_classes();

CodePoint decode(std::string_view text) {
  const auto byte = [text](std::size_t i) -> std::int32_t {
    return static_cast<unsigned char>(text[i]);
  };
  const auto continues = [&](std::size_t i) { return i < text.size() && (byte(i) & 0xc0) == 0x80; };
  constexpr CodePoint kInvalid = {-1, 1};
  const std::int32_t lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  if (lead < 0xc2 || lead > 0xf4 || !continues(1)) return kInvalid;
  std::int32_t value = byte(1) & 0x3f;
  if (lead < 0xe0) return {(lead & 0x1f) << 6 | value, 2};
  if (!continues(2)) return kInvalid;
  value = value << 6 | (byte(2) & 0x3f);
  if (lead < 0xf0) {
    value |= (lead & 0x0f) << 12;
    if (value < 0x800 || is_between(value, 0xd800, 0xdfff)) return kInvalid;
    return {value, 3};
  }
  if (!continues(3)) return kInvalid;
  value = (lead & 0x07) << 18 | value << 6 | (byte(3) & 0x3f);
  if (!is_between(value, 0x10000, 0x10ffff)) return kInvalid;
  return {value, 4};
}

std::size_t end_of_leading_space(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size()) {
    const Character c = read_character(text, at);
    if (!(c.classes & kSpace)) break;
    at += c.bytes;
  }
  return at;
}

std::size_t begin_of_trailing_space(std::string_view text) {
  std::size_t end = text.size();
  while (end > 0) {
    std::size_t at = end - 1;  // of the character before `end`
    while (at > 0 && end - at < 4 && (text[at] & 0xc0) == 0x80) --at;
    const Character c = read_character(text, at);
    if (at + c.bytes != end || !(c.classes & kSpace)) break;
    end = at;
  }
  return end;
}

Character read_deepseek_llm_character(std::string_view text, std::size_t at) {
  const auto byte = static_cast<unsigned char>(text[at]);
  if (byte < 128) return {kAsciiClasses[byte], 1};
  const CodePoint c = decode(text.substr(at));
  return {c.value < 0 ? Classes(0) : classes_of_deepseek_llm(c.value), c.bytes};
}

}  // namespace quern::internal
