// SPDX-License-Identifier: MIT
#include "quern/recipes/recipe_differences.h"

#include <algorithm>
#include <charconv>
#include <optional>

#include "quern/recipes/internal/recipe_fields.h"

namespace quern {
namespace {

using Fields = std::vector<std::pair<std::string, std::string>>;

std::string value_text(bool value) { return value ? "true" : "false"; }
std::string value_text(std::int64_t value) { return std::to_string(value); }
std::string value_text(const std::string& value) { return "'" + value + "'"; }
std::string value_text(double value) {  // the shortest that reads back the same
  char text[40];
  return {text, std::to_chars(text, text + sizeof text, value).ptr};
}

template <class T>
void collect(const std::string& path, const T& value, Fields& fields);

template <class T>
void collect(const std::string& path, const std::optional<T>& value, Fields& fields) {
  if (value) collect(path, *value, fields);
}

template <class T>
void collect(const std::string& path, const std::vector<T>& values, Fields& fields) {
  if constexpr (requires(const T& value) { value_text(value); }) {
    if (values.empty()) return;
    std::string list;
    for (const T& value : values) list += (list.empty() ? "[" : ", ") + value_text(value);
    fields.emplace_back(path, list + "]");
  } else {
    for (std::size_t i = 0; i < values.size(); ++i) {
      collect(path + "[" + std::to_string(i) + "]", values[i], fields);
    }
  }
}

template <class T>
void collect(const std::string& path, const T& value, Fields& fields) {
  if constexpr (requires { value_text(value); }) {
    fields.emplace_back(path, value_text(value));
  } else {
    internal::for_each_field(value, [&](const char* name, const auto& member) {
      collect(path.empty() ? name : path + "." + name, member, fields);
    });
  }
}

const std::string* value_of(const Fields& fields, const std::string& path) {
  const auto at = std::ranges::find(fields, path, &Fields::value_type::first);
  return at == fields.end() ? nullptr : &at->second;
}

}  // namespace

Fields recipe_fields(const Recipe& recipe) {
  Fields fields;
  collect("", recipe, fields);
  return fields;
}

std::vector<FieldDifference> differences(const std::vector<Recipe>& recipes) {
  std::vector<Fields> all;
  for (const Recipe& recipe : recipes) all.push_back(recipe_fields(recipe));
  std::vector<FieldDifference> found;
  for (const Fields& fields : all) {
    for (const auto& [path, ignored] : fields) {
      if (std::ranges::find(found, path, &FieldDifference::path) != found.end()) continue;
      FieldDifference& entry = found.emplace_back(FieldDifference{path, {}});
      for (const Fields& other : all) {
        const std::string* value = value_of(other, path);
        entry.values.push_back(value == nullptr ? "" : *value);
      }
    }
  }
  std::erase_if(found, [](const FieldDifference& entry) {
    return std::ranges::all_of(entry.values, [&](const auto& v) { return v == entry.values[0]; });
  });
  return found;
}

}  // namespace quern
