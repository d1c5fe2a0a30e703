// SPDX-License-Identifier: MIT
#include "quern/data/internal/json_checks.h"

#include <algorithm>

#include "quern/autograd/error.h"

namespace quern {

std::string shown(const nlohmann::json& value) {
  using nlohmann::json;
  std::string text = value.is_structured()
                         ? std::string(value.type_name())
                         : value.dump(-1, ' ', false, json::error_handler_t::replace);
  if (text.size() > 80) {
    std::size_t cut = 80;
    while ((text[cut] & 0xc0) == 0x80) --cut;  // no torn character
    text = text.substr(0, cut) + "...";
  }
  return text;
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
      refuse_for(path(where, key), "unknown key");
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
