// SPDX-License-Identifier: MIT
// The recipe in report.html: what it changes, in full, and the commands that go with it.
#include <algorithm>
#include <string>

#include "quern/recipes/internal/html.h"
#include "quern/recipes/internal/report_parts.h"

namespace quern::internal {
namespace {

constexpr std::size_t kMaxRecipeBytes = 64 << 10, kMaxTextBytes = 2000;
constexpr std::size_t kMaxDifferences = 200, kMaxCellBytes = 300;

std::string cell(const std::string& text) {
  return text.empty() || text == "''" ? "not set" : html_escape(shortened(text, kMaxCellBytes));
}

std::string command(const std::string& name, const std::string& text, const std::string& remark) {
  if (text.empty()) return "";
  return "<h3>" + name + "</h3><pre class=\"command\">" +
         html_escape(shortened(text, kMaxTextBytes)) + "</pre>\n" +
         (remark.empty() ? "" : "<p class=\"remark\">" + remark + "</p>\n");
}

std::string commands(const ReportInput& input) {
  const std::string html =
      command("Reproduce it", input.reproduce_command,
              "The same token files, recipe, kernels and version of Quern give the same bits, "
              "whatever the number of threads.") +
      command("Read what it writes", input.sample_command, "") +
      command("Go on training", input.resume_command, "");
  if (html.empty()) return "";
  return "<section class=\"card\" id=\"commands\"><h2>Next</h2>\n" + html + "</section>\n";
}

std::string differences(const ReportInput& input) {
  if (input.differences.empty()) return "";
  std::string html =
      "<section class=\"card\" id=\"recipe-differences\"><h2>Recipe: what differs from the "
      "defaults</h2>\n<table class=\"fields\"><thead><tr><th>field</th><th>default</th><th>here"
      "</th></tr></thead><tbody>\n";
  for (std::size_t i = 0; i < std::min(input.differences.size(), kMaxDifferences); ++i) {
    const ReportInput::Difference& d = input.differences[i];
    html += "<tr><th scope=\"row\">" + cell(d.field) + "</th><td>" + cell(d.usual) + "</td><td>" +
            cell(d.here) + "</td></tr>\n";
  }
  return html + "</tbody></table></section>\n";
}

std::string whole(const ReportInput& input) {
  if (input.recipe_text.empty()) return "";
  return "<section class=\"card\" id=\"recipe\"><h2>Recipe, as resolved</h2>\n<details><summary>"
         "every field</summary><pre class=\"recipe\">" +
         html_escape(shortened(input.recipe_text, kMaxRecipeBytes)) +
         "</pre></details></section>\n";
}

}  // namespace

std::string report_recipe(const ReportInput& input) {
  return commands(input) + differences(input) + whole(input);
}

}  // namespace quern::internal
