// SPDX-License-Identifier: MIT
// Refusals that name the file and the place in its JSON.
#pragma once

#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace quern {

// A short form of a value for a message.
std::string shown(const nlohmann::json& value);

// The first 80 bytes or so, without control characters, so that a message stays one short line.
std::string clipped(std::string_view text);

struct JsonChecks {
  using json = nlohmann::json;

  [[noreturn]] void refuse(const std::string& key, const std::string& expected,
                           const json& actual) const;
  [[noreturn]] void refuse_for(const std::string& key, const std::string& what) const;

  // It is an object, and has no other keys than these.
  void check_keys(const json& object, const std::string& where,
                  std::initializer_list<std::string_view> known) const;

  const json& member(const json& object, const std::string& where, const std::string& key) const;

  // object[key] is one of the values; absent is fine when the format's default is among them.
  void expect(const json& object, const std::string& where, const std::string& key,
              std::initializer_list<json> values, bool may_be_absent) const;

  static std::string path(const std::string& parent, const std::string& key) {
    return parent.empty() ? key : parent + "." + key;
  }

  std::string file;
};

}  // namespace quern
