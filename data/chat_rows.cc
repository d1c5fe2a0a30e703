// SPDX-License-Identifier: MIT
#include "quern/data/chat_rows.h"

#include <array>
#include <utility>

#include "quern/autograd/error.h"
#include "quern/data/internal/bounded_json.h"
#include "quern/data/internal/json_checks.h"

namespace quern {
namespace {

using nlohmann::json;

constexpr std::array<std::pair<std::string_view, RowForm>, 5> kForms = {{
    {"messages", RowForm::messages},
    {"conversations", RowForm::conversations},
    {"instruction", RowForm::instruction},
    {"prompt", RowForm::prompt},
    {"text", RowForm::text},
}};

using RoleNames = std::array<const char*, 3>;  // by ChatRole
constexpr RoleNames kRoles = {"system", "user", "assistant"};
constexpr RoleNames kSpeakers = {"system", "human", "gpt"};

struct RowReader {
  const std::string& file;
  int line;

  [[noreturn]] void refuse(ErrorFacts facts) const {
    facts.file = file;
    facts.line = line;
    facts.column = 1;
    if (facts.hint.empty()) facts.hint = "--on-error skip passes over such rows";
    throw DataError(std::move(facts));
  }

  const json& member(const json& object, const std::string& where, const char* key) const {
    if (!object.is_object()) {
      refuse({.key = where, .expected = "an object", .actual = object.type_name()});
    }
    const auto found = object.find(key);
    if (found != object.end()) return *found;
    refuse({.key = where,
            .what = std::string("no key \"") + key + "\"",
            .hint = "--rows names the form of the file, --on-error skip passes over such rows"});
  }

  std::string text(const json& object, const std::string& where, const char* key) const {
    const json& value = member(object, where, key);
    if (value.is_string()) return value.get<std::string>();
    refuse({.key = JsonChecks::path(where, key),
            .expected = "a string",
            .actual = value.is_null() ? "null" : value.type_name()});
  }

  ChatRole role(const std::string& name, const std::string& where, const RoleNames& names) const {
    for (size_t i = 0; i < names.size(); ++i) {
      if (name == names[i]) return ChatRole(i);
    }
    refuse({.key = where,
            .expected = std::string(names[0]) + ", " + names[1] + " or " + names[2],
            .actual = "'" + clipped(name) + "'"});
  }

  std::vector<ChatTurn> list(const json& row, const char* key, const char* role_key,
                             const char* text_key, const RoleNames& names) const {
    const json& turns = member(row, "", key);
    if (!turns.is_array()) {
      refuse({.key = key, .expected = "a list of turns", .actual = turns.type_name()});
    }
    std::vector<ChatTurn> out;
    for (size_t i = 0; i < turns.size(); ++i) {
      const std::string where = std::string(key) + "[" + std::to_string(i) + "]";
      const std::string name = text(turns[i], where, role_key);
      out.push_back(
          {role(name, JsonChecks::path(where, role_key), names), text(turns[i], where, text_key)});
    }
    return out;
  }

  std::vector<ChatTurn> instruction(const json& row) const {
    std::string question = text(row, "", "instruction");
    const std::string input = row.contains("input") ? text(row, "", "input") : "";
    if (!input.empty()) question += "\n\n" + input;
    return {{ChatRole::user, std::move(question)}, {ChatRole::assistant, text(row, "", "output")}};
  }

  void check(const std::vector<ChatTurn>& turns) const {
    if (turns.empty()) refuse({.what = "a conversation without turns"});
    for (size_t i = 0; i < turns.size(); ++i) {
      const std::string key = "turn " + std::to_string(i + 1);
      if (turns[i].role == ChatRole::system && i > 0) {
        refuse({.key = key,
                .what = "the system speaks after others",
                .hint = "its turn is the first, if there is one"});
      }
      if (turns[i].role == ChatRole::assistant &&
          turns[i].text.find_first_not_of(" \t\r\n") == std::string::npos) {
        refuse({.key = key, .what = "an empty answer"});
      }
    }
    if (turns.back().role != ChatRole::assistant) {
      refuse({.key = "turn " + std::to_string(turns.size()),
              .what = "the last turn is not the assistant's",
              .expected = "an answer",
              .hint = "--on-error skip passes over such rows"});
    }
  }
};

JsonLimits limits_of(std::size_t max_bytes) {
  return {.max_bytes = max_bytes, .max_string = max_bytes};
}

}  // namespace

const char* name_of(ChatRole role) { return kRoles[size_t(role)]; }

std::optional<RowForm> row_form_named(std::string_view name) {
  for (const auto& [known, form] : kForms) {
    if (name == known) return form;
  }
  return std::nullopt;
}

std::optional<RowForm> detect_row_form(std::string_view line, std::size_t max_bytes) {
  try {
    const json row = parse_bounded_json(line, "", limits_of(max_bytes));
    for (const auto& [key, form] : kForms) {
      if (row.is_object() && row.contains(key)) return form;
    }
  } catch (const DataError&) {  // its reader says what is wrong
  }
  return std::nullopt;
}

std::vector<ChatTurn> read_chat_row(std::string_view line, RowForm form, const std::string& file,
                                    int line_number, std::size_t max_bytes) {
  const json row = parse_bounded_json(line, file, limits_of(max_bytes), line_number);
  const RowReader reader{file, line_number};
  std::vector<ChatTurn> turns;
  switch (form) {
    case RowForm::text:
      break;
    case RowForm::messages:
      turns = reader.list(row, "messages", "role", "content", kRoles);
      break;
    case RowForm::conversations:
      turns = reader.list(row, "conversations", "from", "value", kSpeakers);
      break;
    case RowForm::instruction:
      turns = reader.instruction(row);
      break;
    case RowForm::prompt:
      turns = {{ChatRole::user, reader.text(row, "", "prompt")},
               {ChatRole::assistant, reader.text(row, "", "completion")}};
      break;
  }
  reader.check(turns);
  return turns;
}

}  // namespace quern
