// SPDX-License-Identifier: MIT
#include "quern/recipes/internal/recipe_hints.h"

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "quern/layers/internal/check_range.h"
#include "quern/recipes/internal/recipe_fields.h"
#include "quern/recipes/internal/recipe_path.h"

namespace quern::internal {
namespace {

using Steps = std::span<const PathStep>;  // from a value on down

template <class T>
std::string text_of(const std::vector<T>& v, Steps rest);
template <class T>
std::string text_of(const std::optional<T>& v, Steps rest);
template <class Struct>
std::string text_of(const Struct& s, Steps path);

std::string text_of(std::int64_t v, Steps) { return std::to_string(v); }
std::string text_of(double v, Steps) { return to_text(v); }
std::string text_of(bool v, Steps) { return v ? "true" : "false"; }
std::string text_of(const std::string& v, Steps) { return v.empty() ? "" : '"' + v + '"'; }

template <class T>
std::string text_of(const std::vector<T>& v, Steps rest) {
  std::string text;
  for (const T& element : v) text += (text.empty() ? "" : ", ") + text_of(element, rest);
  return text.empty() ? "" : "[" + text + "]";
}

template <class T>
std::string text_of(const std::optional<T>&, Steps rest) {
  return text_of(T(), rest);
}

// The value of a field below a struct; empty where the path leads to no value.
template <class Struct>
std::string text_of(const Struct& s, Steps path) {
  std::string text;
  if (path.empty()) return text;
  for_each_field(s, [&](const char* name, const auto& member) {
    if (name == path[0].name) text = text_of(member, path.subspan(1));
  });
  return text;
}

}  // namespace

std::string remedy_for_value(const std::string& key) {
  if (key.starts_with("data.train")) {
    return "as in data { train { path: \"tokens/train.h5\" } }; `quern prepare` makes that file";
  }
  const std::string value = text_of(Recipe(), parse_path(key));
  return value.empty() ? "see `quern train --help` for an example"
                       : "leave it out for the default, " + value;
}

std::string remedy_for_syntax(const ErrorFacts& f) {
  const std::string_view got = f.actual;
  if (f.expected.starts_with("a whole number")) {
    return got.starts_with('"') ? "write the number without quotes" : "as in 256";
  }
  if (f.expected == "a number") {
    return got.starts_with('"') ? "write the number without quotes" : "as in 3e-4";
  }
  if (f.expected == "a text in quotes") return "as in \"cosine\"";
  if (f.expected == "true or false") return "without quotes";
  if (f.expected == "the name of a field") {
    if (got == "the end of the text") return "a { is not closed";
    if (got == "}") return "there is no { for it";
    return "a recipe reads like model { vocab_size: 8192 }";
  }
  if (f.expected == "{")
    return "fields of a group stand in braces, as in model { vocab_size: 8192 }";
  if (f.expected == ":") return "a value follows a colon, as in lr: 3e-4";
  return "recipes/example.textproto shows how recipes are written";
}

}  // namespace quern::internal
