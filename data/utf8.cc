// SPDX-License-Identifier: MIT
#include "quern/data/utf8.h"

#include <utf8proc.h>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <cstring>

namespace quern {

const char* name_of(InvalidUtf8 policy) {
  switch (policy) {
    case InvalidUtf8::keep:
      return "keep";
    case InvalidUtf8::replace:
      return "replace";
    case InvalidUtf8::refuse:
      break;
  }
  return "refuse";
}

std::optional<InvalidUtf8> invalid_utf8_named(std::string_view name) {
  for (const auto policy : {InvalidUtf8::keep, InvalidUtf8::replace, InvalidUtf8::refuse}) {
    if (name == name_of(policy)) return policy;
  }
  return std::nullopt;
}

size_t find_invalid_utf8(std::string_view text, size_t begin) {
  for (size_t i = begin; i < text.size();) {
    std::uint64_t eight = 0;  // bytes at a time, while all are ASCII
    if (i + sizeof eight <= text.size()) {
      std::memcpy(&eight, text.data() + i, sizeof eight);
      if ((eight & 0x8080808080808080u) == 0) {
        i += sizeof eight;
        continue;
      }
    }
    const auto* at = reinterpret_cast<const utf8proc_uint8_t*>(text.data() + i);
    if (*at < 0x80) {
      ++i;
      continue;
    }
    utf8proc_int32_t code = 0;
    const auto left = utf8proc_ssize_t(std::min<size_t>(text.size() - i, 4));
    const auto length = utf8proc_iterate(at, left, &code);
    if (length < 0) return i;
    i += size_t(length);
  }
  return std::string_view::npos;
}

i64 count_invalid_utf8(std::string_view text) {
  i64 invalid = 0;
  for (size_t i = 0; (i = find_invalid_utf8(text, i)) != std::string_view::npos; ++i) ++invalid;
  return invalid;
}

namespace {

// The code unit of a \uXXXX at `at`; -1 where there is none.
int escaped_unit(std::string_view json, size_t at) {
  if (at + 6 > json.size() || json[at] != '\\' || json[at + 1] != 'u') return -1;
  int unit = 0;
  const char* end = json.data() + at + 6;
  const auto read = std::from_chars(json.data() + at + 2, end, unit, 16);
  return read.ptr == end && unit >= 0 ? unit : -1;
}

}  // namespace

size_t find_lone_surrogate(std::string_view json, size_t begin) {
  for (size_t at = begin; (at = json.find('\\', at)) != std::string_view::npos;) {
    const int unit = escaped_unit(json, at);
    if (unit < 0) {
      at += 2;  // another escape, which may be of a backslash
      continue;
    }
    const int next = escaped_unit(json, at + 6);
    const bool high = unit >= 0xD800 && unit < 0xDC00, low = unit >= 0xDC00 && unit < 0xE000;
    const bool pair = high && next >= 0xDC00 && next < 0xE000;
    if (low || (high && !pair)) return at;
    at += pair ? 12 : 6;
  }
  return std::string_view::npos;
}

std::string with_invalid_utf8_replaced(std::string_view text) {
  std::string replaced;
  size_t done = 0;
  for (size_t i = 0; (i = find_invalid_utf8(text, i)) != std::string_view::npos; done = ++i) {
    replaced.append(text.substr(done, i - done)).append("\xEF\xBF\xBD");
  }
  return replaced.append(text.substr(done));
}

}  // namespace quern
