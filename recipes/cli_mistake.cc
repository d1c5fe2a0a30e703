// SPDX-License-Identifier: MIT
#include "quern/recipes/internal/cli_mistake.h"

#include <algorithm>
#include <string>
#include <vector>

#include "quern/autograd/nearest_name.h"
#include "quern/recipes/internal/text_file.h"

namespace quern {
namespace {

using internal::one_line;

std::vector<std::string> command_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* c : app.get_subcommands([](const CLI::App*) { return true; })) {
    names.push_back(c->get_name());
  }
  return names;
}

std::vector<std::string> option_names(const CLI::App& command) {
  std::vector<std::string> names;
  for (const CLI::Option* o : command.get_options()) {
    for (const std::string& name : o->get_lnames()) names.push_back("--" + name);
  }
  return names;
}

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

// The subcommand on the command line, also where parsing ended before it.
const CLI::App* command_of(const CLI::App& app, int argc, const char* const* argv) {
  const auto names = command_names(app);
  if (argc < 2 || std::ranges::find(names, argv[1]) == names.end()) return nullptr;
  return app.get_subcommand(argv[1]);
}

// The part of CLI11's sentence before or behind a mark; the whole where the mark is not there.
std::string before(const std::string& text, const std::string& mark) {
  return text.substr(0, text.find(mark));
}
std::string behind(const std::string& text, const std::string& mark) {
  const size_t at = text.find(mark);
  return at == std::string::npos ? text : text.substr(at + mark.size());
}

ErrorFacts no_command(const CLI::App& app, int argc, const char* const* argv) {
  const auto names = command_names(app);
  ErrorFacts facts{.what = "no command", .expected = "one of " + joined(names)};
  facts.hint = "quern --help says what each does";
  if (argc < 2) return facts;
  const std::string given = argv[1];
  facts.what = "";
  facts.actual = "'" + one_line(given) + "'";
  const std::string near = nearest_name(given, names);
  if (!near.empty()) facts.hint = "did you mean '" + near + "'?";
  return facts;
}

// What the program does not know: the first one in the order they were given.
ErrorFacts surplus(const CLI::App& command, const std::string& help, const std::string& list,
                   int argc, const char* const* argv) {
  std::string first;
  for (int i = 2; i < argc && first.empty(); ++i) {
    const std::string name = before(argv[i], "=");
    if ((" " + list + " ").find(" " + name + " ") != std::string::npos) first = name;
  }
  if (first.empty()) first = before(list, " ");
  if (!first.starts_with("-")) {
    return {.what = "an argument too many", .actual = "'" + one_line(first) + "'", .hint = help};
  }
  const std::string near = nearest_name(first, option_names(command));
  return {.key = one_line(first),
          .what = "no such option",
          .hint = near.empty() ? help : "did you mean '" + near + "'?"};
}

}  // namespace

ErrorFacts cli_mistake(const CLI::App& app, const CLI::ParseError& error, int argc,
                       const char* const* argv) {
  const CLI::App* command = command_of(app, argc, argv);
  if (command == nullptr) return no_command(app, argc, argv);
  const std::string said = error.what(), kind = error.get_name();
  const std::string help = "quern " + command->get_name() + " --help shows an example";
  if (dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr) {
    return surplus(*command, help, behind(said, "expected: "), argc, argv);
  }
  if (kind == "RequiredError") {
    return {.key = before(said, " is required"), .what = "missing", .hint = help};
  }
  if (kind == "ConversionError") {  // "Could not convert: --tokens = many"
    const std::string about = behind(said, "convert: ");
    const std::string key = before(about, " = ");
    const CLI::Option* option = command->get_option_no_throw(key);
    const bool flag = option != nullptr && option->get_items_expected_max() == 0;
    return {.key = key,
            .expected = flag ? "no value" : "a number",
            .actual = "'" + one_line(behind(about, " = ")) + "'",
            .hint = help};
  }
  if (kind == "ArgumentMismatch") {  // "--set: 1 required TEXT missing", "--out: At Most 1 ..."
    const bool many = said.find("At Most") != std::string::npos;
    return {.key = before(said, ":"),
            .what = many ? "is given more than once" : "needs a value",
            .hint = many ? "keep one of them" : help};
  }
  if (kind == "ValidationError") {  // "--x: Value 1 not in range 2 to 9"
    const std::string wanted = behind(said, "not in range ");
    if (wanted != said) {
      return {.key = before(said, ":"),
              .expected = wanted,
              .actual = before(behind(said, "Value "), " not in"),
              .hint = help};
    }
  }
  return {.what = one_line(said), .hint = help};
}

}  // namespace quern
