// SPDX-License-Identifier: MIT
// Recipes between text and structs. Protobuf parses and prints; recipe_fields.h says which field
// belongs to which member; every mistake is answered with the place it was made in.
#include "quern/recipes/recipe.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/text_format.h>

#include <cctype>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>

#include "quern/autograd/error.h"
#include "quern/autograd/nearest_name.h"
#include "quern/data/utf8.h"
#include "quern/recipes/internal/recipe_fields.h"
#include "quern/recipes/internal/recipe_hints.h"
#include "quern/recipes/internal/recipe_message.h"
#include "quern/recipes/internal/recipe_path.h"
#include "quern/recipes/internal/router_names.h"
#include "quern/recipes/internal/text_file.h"
#include "recipe.pb.h"

namespace quern {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::TextFormat;
using internal::kOne;
using internal::PathStep;

constexpr std::size_t kMaxRecipeBytes = 1 << 20;
constexpr int kMaxNesting = 16;  // the schema needs 4

// ---- names

std::vector<std::string> field_names(const Descriptor& type) {
  std::vector<std::string> names;
  for (int i = 0; i < type.field_count(); ++i) names.push_back(type.field(i)->name());
  return names;
}

// The path from the recipe to the first message `wanted` accepts, as "model.rope_scaling".
template <class Predicate>
std::optional<std::string> find_message(const Descriptor& type, const std::string& path,
                                        const Predicate& wanted) {
  if (wanted(type)) return path;
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor* field = type.field(i);
    if (field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) continue;
    const std::string inner = path.empty() ? field->name() : path + "." + field->name();
    if (const auto found = find_message(*field->message_type(), inner, wanted)) return found;
  }
  return std::nullopt;
}

// What is wrong with `name` in a message of type `type`, and what may have been meant: the same
// name elsewhere in the recipe, or a similar one here.
ErrorFacts unknown_field(const std::string& name, const Descriptor& type) {
  const Descriptor& recipe = *proto::Recipe::descriptor();
  const auto here = find_message(recipe, "", [&](const Descriptor& d) { return &d == &type; });
  ErrorFacts facts{.what = "no field named '" + internal::one_line(name) + "' in " +
                           (here && !here->empty() ? *here : "the recipe")};
  const auto elsewhere = find_message(
      recipe, "", [&](const Descriptor& d) { return d.FindFieldByName(name) != nullptr; });
  if (elsewhere && elsewhere->empty()) {
    facts.hint = "'" + name + "' stands outside all braces";
    return facts;
  }
  const std::string meant =
      elsewhere ? *elsewhere + "." + name : nearest_name(name, field_names(type));
  facts.hint =
      meant.empty() ? "recipes/recipe.proto lists all fields" : "did you mean '" + meant + "'?";
  return facts;
}

// ---- text to message

struct FirstError : google::protobuf::io::ErrorCollector {
  void AddError(int at_line, int at_column, const std::string& text) override {
    if (!message.empty()) return;
    line = at_line;
    column = at_column;
    message = text;
  }
  int line = 0;
  int column = 0;
  std::string message;
};

TextFormat::Parser make_parser(FirstError& error) {
  TextFormat::Parser parser;
  parser.RecordErrorsTo(&error);
  parser.SetRecursionLimit(kMaxNesting);
  return parser;
}

// The offset of protobuf's 0-based line and column, whose tabs reach to multiples of 8.
std::size_t offset_of(const std::string& text, int line, int column) {
  std::size_t offset = 0;
  for (; line > 0; --line) {
    const std::size_t end = text.find('\n', offset);
    if (end == std::string::npos) return text.size();
    offset = end + 1;
  }
  for (int at = 0; at < column && offset < text.size() && text[offset] != '\n'; ++offset) {
    at += text[offset] == '\t' ? 8 - at % 8 : 1;
  }
  return offset;
}

// Protobuf's message as facts. Where it points behind the word it is about, `offset` moves back.
ErrorFacts syntax_facts(const std::string& text, const std::string& message, std::size_t& offset) {
  const auto between = [&message](std::string_view from, std::string_view to) -> std::string {
    const std::size_t begin = message.find(from);
    if (begin == std::string::npos) return "";
    const std::size_t end = message.find(to, begin + from.size());
    return message.substr(begin + from.size(), end - begin - from.size());
  };
  const auto move_back_to = [&](const std::string& word) {
    const std::size_t begin = text.rfind(word, offset);
    if (begin != std::string::npos) offset = begin;
  };
  if (const std::string name = between("has no field named \"", "\""); !name.empty()) {
    move_back_to(name);
    const Descriptor* type = proto::Recipe::descriptor()->file()->pool()->FindMessageTypeByName(
        between("Message type \"", "\""));
    if (type != nullptr) return unknown_field(name, *type);
  }
  if (const std::string name = between("Non-repeated field \"", "\""); !name.empty()) {
    move_back_to(name);
    return {.what = "'" + name + "' is given twice", .hint = "keep one of them"};
  }
  if (message.starts_with("Invalid value for boolean field")) {
    const std::string value = between("Value: \"", "\"");
    move_back_to(value);
    return {.expected = "true or false", .actual = internal::one_line(value)};
  }
  // Protobuf's words for what it wanted, and ours; what it got follows them.
  constexpr std::pair<std::string_view, const char*> kWanted[] = {
      {"Expected integer, got: ", "a whole number"},
      {"Expected double, got: ", "a number"},
      {"Expected string, got: ", "a text in quotes"},
      {"Expected identifier, got: ", "the name of a field"},
  };
  for (const auto& [words, wanted] : kWanted) {
    if (!message.starts_with(words)) continue;
    const std::string got = internal::one_line(message.substr(words.size()));
    return {.expected = wanted, .actual = got.empty() ? "the end of the text" : got};
  }
  if (const std::string wanted = between("Expected \"", "\", found \""); !wanted.empty()) {
    return {.expected = wanted, .actual = internal::one_line(between("found \"", "\"."))};
  }
  if (const std::string number = between("Integer out of range (", ")"); !number.empty()) {
    constexpr std::size_t kSafeDigits = 18;  // fewer fit any integer: the field is true or false
    const bool flag = number.size() <= kSafeDigits;
    return {.expected = flag ? "true or false" : "a whole number of 64 bits",
            .actual = internal::one_line(number)};
  }
  std::string what = internal::one_line(message);
  what[0] = static_cast<char>(std::tolower(static_cast<unsigned char>(what[0])));
  if (what.ends_with('.')) what.pop_back();
  return {.what = what};
}

void parse_text(const std::string& text, const std::string& file, proto::Recipe& recipe,
                TextFormat::ParseInfoTree& places) {
  FirstError error;
  TextFormat::Parser parser = make_parser(error);
  parser.WriteLocationsTo(&places);
  if (parser.ParseFromString(text, &recipe)) return;
  std::size_t offset = offset_of(text, error.line, error.column);
  ErrorFacts facts = syntax_facts(text, error.message, offset);
  const internal::Position at = internal::position_at(text, offset);
  facts.file = file;
  facts.line = at.line;
  facts.column = at.column;
  if (facts.hint.empty()) facts.hint = internal::remedy_for_syntax(facts);
  throw ConfigError(std::move(facts));
}

// ---- overrides

const FieldDescriptor* find_field(const Message& message, const std::string& name) {
  const FieldDescriptor* field = message.GetDescriptor()->FindFieldByName(name);
  if (field == nullptr) throw ConfigError(unknown_field(name, *message.GetDescriptor()));
  return field;
}

Message* enter(Message& message, const PathStep& step) {
  const FieldDescriptor* field = find_field(message, step.name);
  if (field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) {
    throw ConfigError({.what = "'" + step.name + "' has no fields",
                       .hint = "it is a value itself: " + step.name + "=..."});
  }
  if (!field->is_repeated()) {
    if (step.index) {
      throw ConfigError(
          {.what = "'" + step.name + "' is not a list", .hint = "write it without an index"});
    }
    return message.GetReflection()->MutableMessage(&message, field);
  }
  const int size = message.GetReflection()->FieldSize(message, field);
  if (!step.index || *step.index >= size) {
    throw ConfigError({.what = "'" + step.name + "' needs the index of one of its " +
                               std::to_string(size) + " entries",
                       .hint = size == 0 ? "the recipe must have it; --set adds none"
                                         : "the last one is " + step.name + "[" +
                                               std::to_string(size - 1) + "]"});
  }
  return message.GetReflection()->MutableRepeatedMessage(&message, field, *step.index);
}

std::string kind_of(const FieldDescriptor& field) {
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT64:
      return "a whole number";
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return "a number";
    case FieldDescriptor::CPPTYPE_BOOL:
      return "true or false";
    default:
      return "a text in quotes";
  }
}

std::string example_field(const FieldDescriptor& group) {
  return group.message_type()->field(0)->name();
}

void set_value(Message& message, const PathStep& step, const std::string& value) {
  const FieldDescriptor* field = find_field(message, step.name);
  if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
    throw ConfigError(
        {.what = "'" + step.name + "' is a group of fields",
         .hint = "set one of them, as in " + step.name + "." + example_field(*field) + "=..."});
  }
  if (step.index) {
    throw ConfigError({.what = "'" + step.name + "' has no places that are set alone",
                       .hint = "set it as a whole, as in " + step.name + "=['a', 'b']"});
  }
  const bool quoted = value.starts_with('"') || value.starts_with('\'') || value.starts_with('[');
  message.GetReflection()->ClearField(&message, field);
  if (field->cpp_type() == FieldDescriptor::CPPTYPE_STRING && !quoted) {  // a shell took the quotes
    return internal::put(message, field, value);
  }
  // Parsed alone in an empty message, so that a value cannot smuggle in further fields.
  const std::unique_ptr<Message> alone(message.New());
  FirstError error;
  std::vector<const FieldDescriptor*> set;
  if (make_parser(error).ParseFromString(step.name + ": " + value, alone.get())) {
    alone->GetReflection()->ListFields(*alone, &set);
  }
  if (set.size() != 1 || set[0] != field) {
    ErrorFacts facts{.expected = kind_of(*field), .actual = "'" + internal::one_line(value) + "'"};
    facts.hint = internal::remedy_for_syntax(facts);
    if (field->is_repeated()) facts.expected += ", or [a list]";
    throw ConfigError(std::move(facts));
  }
  message.MergeFrom(*alone);
}

// Where the values of a recipe came from.
struct Origin {
  std::string file;
  std::string text;
  TextFormat::ParseInfoTree places;
  std::vector<std::pair<std::string, std::string>> overrides;  // path, "--set path=value"
};

void apply_override(proto::Recipe& recipe, const std::string& text, Origin& origin) {
  const std::string shown = "--set " + internal::one_line(text);
  try {
    const std::size_t equals = text.find('=');
    if (equals == std::string::npos) {
      throw ConfigError({.expected = "path=value", .hint = "as in --set optim.lr=3e-4"});
    }
    const std::string path = text.substr(0, equals);
    const std::vector<PathStep> steps = internal::parse_path(path);
    Message* message = &recipe;
    for (std::size_t i = 0; i + 1 < steps.size(); ++i) message = enter(*message, steps[i]);
    set_value(*message, steps.back(), text.substr(equals + 1));
    origin.overrides.emplace_back(path, shown);
  } catch (const ConfigError& error) {
    ErrorFacts facts = error.facts();
    facts.file = shown;
    throw ConfigError(std::move(facts));
  }
}

// ---- from the key of a bad value to the place that gave it

std::optional<TextFormat::ParseLocation> find_place(const TextFormat::ParseInfoTree& root,
                                                    const std::string& key) {
  const std::vector<PathStep> steps = internal::parse_path(key);
  const Descriptor* type = proto::Recipe::descriptor();
  const TextFormat::ParseInfoTree* tree = &root;
  for (std::size_t i = 0; i < steps.size(); ++i) {
    const FieldDescriptor* field = type->FindFieldByName(steps[i].name);
    if (field == nullptr) return std::nullopt;
    const int index = field->is_repeated() ? steps[i].index.value_or(0) : kOne;
    if (i + 1 == steps.size()) {
      TextFormat::ParseLocation place = tree->GetLocation(field, index);
      if (place.line < 0 && index > 0) place = tree->GetLocation(field, 0);  // written as [a, b]
      return place.line < 0 ? std::nullopt : std::optional(place);
    }
    type = field->message_type();
    tree = type == nullptr ? nullptr : tree->GetTreeForNested(field, index);
    if (tree == nullptr) return std::nullopt;
  }
  return std::nullopt;
}

ErrorFacts locate(ErrorFacts facts, const Origin& origin) {
  if (facts.hint.empty()) facts.hint = internal::remedy_for_value(facts.key);
  for (auto it = origin.overrides.rbegin(); it != origin.overrides.rend(); ++it) {
    if (facts.key != it->first && !facts.key.starts_with(it->first + "[")) continue;
    facts.file = it->second;
    return facts;
  }
  facts.file = origin.file;
  if (const auto place = find_place(origin.places, facts.key)) {
    const internal::Position at =
        internal::position_at(origin.text, offset_of(origin.text, place->line, place->column));
    facts.line = at.line;
    facts.column = at.column;
  }
  return facts;
}

}  // namespace

namespace {

// A run keeps its recipe with every field written, and must be able to read it again.
void check_size_in_full(const Recipe& recipe) {
  const std::size_t bytes = to_text(recipe).size();
  if (bytes <= kMaxRecipeBytes) return;
  throw ConfigError({.what = "is too long with every field written",
                     .expected = "at most " + std::to_string(kMaxRecipeBytes) + " bytes",
                     .actual = std::to_string(bytes),
                     .hint = "shorten its lists"});
}

}  // namespace

Recipe parse_recipe(const std::string& text, const std::string& file_name,
                    std::span<const std::string> overrides) {
  if (text.size() > kMaxRecipeBytes) {
    throw ConfigError({.file = file_name,
                       .what = "is longer than " + std::to_string(kMaxRecipeBytes) + " bytes",
                       .hint = "is this a recipe?"});
  }
  internal::check_plain_text(text, file_name);
  Origin origin{.file = file_name, .text = text};
  proto::Recipe message;
  parse_text(text, file_name, message, origin.places);
  for (const std::string& override_text : overrides) {
    apply_override(message, override_text, origin);
  }
  try {
    if (message.has_model()) internal::apply_router(*message.mutable_model());
    Recipe recipe;
    internal::read_fields(message, "", recipe);
    validate(recipe);
    check_size_in_full(recipe);
    return recipe;
  } catch (const ConfigError& error) {
    throw ConfigError(locate(error.facts(), origin));
  }
}

Recipe load_recipe(const std::string& path, std::span<const std::string> overrides) {
  return parse_recipe(internal::read_text_file(path, kMaxRecipeBytes), path, overrides);
}

std::string to_text(const Recipe& recipe) {
  proto::Recipe message;
  internal::for_each_field(recipe, [&](const char* name, const auto& part) {
    internal::put(message, proto::Recipe::descriptor()->FindFieldByName(name), part);
  });
  TextFormat::Printer printer;
  printer.SetUseUtf8StringEscaping(true);
  std::string text;
  printer.PrintToString(message, &text);
  if (find_invalid_utf8(text) == std::string::npos) return text;
  // A file name on the command line may be of any bytes; as escapes they can be read again.
  printer.SetUseUtf8StringEscaping(false);
  printer.PrintToString(message, &text);
  return text;
}

}  // namespace quern
