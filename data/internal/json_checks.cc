// SPDX-License-Identifier: MIT
#include "quern/data/internal/json_checks.h"

#include <algorithm>

#include "quern/autograd/error.h"

namespace quern {

std::string shown(const nlohmann::json& value) {
  using nlohmann::json;
  const std::string text = value.is_structured()
                               ? std::string(value.type_name())
                               : value.dump(-1, ' ', false, json::error_handler_t::replace);
  return clipped(text);
}

std::string clipped(std::string_view text) {
  std::string line(text.substr(0, 80));
  while (line.size() < text.size() && (text[line.size()] & 0xc0) == 0x80) line.pop_back();
  for (char& c : line) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  return line.size() < text.size() ? line + "..." : line;
}

void JsonChecks::refuse(const std::string& key, const std::string& expected,
                        const json& actual) const {
  throw DataError({.file = file, .key = key, .expected = expected, .actual = shown(actual)});
}

void JsonChecks::refuse_for(const std::string& key, const std::string& what) const {
  throw DataError({.file = file, .key = key, .what = what});
}

void JsonChecks::check_keys(const json& object, const std::string& where,
                            std::initializer_list<std::string_view> known) const {
  if (!object.is_object()) refuse(where, "an object", object);
  for (const auto& [key, value] : object.items()) {
    if (std::find(known.begin(), known.end(), key) == known.end()) {
      refuse_for(path(where, clipped(key)), "unknown key");
    }
  }
}

const nlohmann::json& JsonChecks::member(const json& object, const std::string& where,
                                         const std::string& key) const {
  if (!object.contains(key)) refuse_for(path(where, key), "is missing");
  return object[key];
}

void JsonChecks::expect(const json& object, const std::string& where, const std::string& key,
                        std::initializer_list<json> values, bool may_be_absent) const {
  if (may_be_absent && !object.contains(key)) return;
  const json& value = member(object, where, key);
  if (std::find(values.begin(), values.end(), value) != values.end()) return;
  std::string expected;
  for (const json& one : values) expected += (expected.empty() ? "" : " or ") + shown(one);
  refuse(path(where, key), expected, value);
}

}  // namespace quern
