// SPDX-License-Identifier: MIT
#include "tests/support/report_faults.h"

#include <algorithm>
#include <stdexcept>

#include "tests/support/html_page.h"

namespace quern::testing {
namespace {

constexpr std::size_t kMaxBytes = 2'000'000;

using Faults = std::vector<std::string>;

// A plot with at least this many lines that go from a point to another one.
void check_plot(const HtmlNode& panel, const std::string& id, std::size_t lines, Faults& faults) {
  const auto drawn = panel.all([](const HtmlNode& node) {
    return node.name == "path" && node.has_class("line") &&
           node.attribute("d").find('L') != std::string::npos;
  });
  if (drawn.size() < lines) {
    faults.push_back(id + ": " + std::to_string(drawn.size()) + " lines, at least " +
                     std::to_string(lines) + " expected");
  }
  const auto ticks = panel.all([](const HtmlNode& node) { return node.has_class("tick"); });
  if (ticks.size() < 3) faults.push_back(id + ": no axes");
}

// Coloured cells, of more than one load.
void check_heat(const HtmlNode& panel, const std::string& id, Faults& faults) {
  std::vector<std::string> classes;
  for (const HtmlNode* svg : panel.named("svg")) {
    for (const HtmlNode* path : svg->named("path")) {
      if (!path->attribute("d").empty()) classes.push_back(path->attribute("class"));
    }
  }
  std::ranges::sort(classes);
  classes.erase(std::unique(classes.begin(), classes.end()), classes.end());
  if (classes.size() < 2) faults.push_back(id + ": no cells of different colours");
}

void check_table(const HtmlNode& panel, const std::string& id, std::size_t rows, Faults& faults) {
  std::size_t filled = 0;
  for (const HtmlNode* body : panel.named("tbody")) {
    for (const HtmlNode* row : body->named("tr")) {
      const auto cells = row->named("td");
      filled += !cells.empty() && std::ranges::all_of(cells, [](const HtmlNode* cell) {
        return !cell->whole_text().empty();
      });
    }
  }
  if (filled < rows) faults.push_back(id + ": fewer than " + std::to_string(rows) + " full rows");
}

void check_texts(const HtmlNode& panel, const std::string& id, const std::string& element,
                 std::size_t count, Faults& faults) {
  std::size_t filled = 0;
  for (const HtmlNode* node : panel.named(element)) filled += !node->whole_text().empty();
  if (filled < count) faults.push_back(id + ": fewer than " + std::to_string(count) + " texts");
}

void check_words(const HtmlNode& panel, const std::string& id, const Faults& words,
                 Faults& faults) {
  const std::string text = panel.whole_text();
  for (const std::string& word : words) {
    if (text.find(word) == text.npos) faults.push_back(id + ": nothing on \"" + word + "\"");
  }
}

template <class Check>
void check_panel(const HtmlNode& page, const std::string& id, Faults& faults, Check&& check) {
  const HtmlNode* panel = page.with_id(id);
  if (panel == nullptr) {
    faults.push_back(id + ": no such panel");
  } else {
    check(*panel, id, faults);
  }
}

auto plot(std::size_t lines, const Faults& words = {}) {
  return [=](const HtmlNode& panel, const std::string& id, Faults& faults) {
    check_plot(panel, id, lines, faults);
    check_words(panel, id, words, faults);
  };
}

auto table(std::size_t rows, const Faults& words = {}) {
  return [=](const HtmlNode& panel, const std::string& id, Faults& faults) {
    check_table(panel, id, rows, faults);
    check_words(panel, id, words, faults);
  };
}

auto texts(const std::string& element, std::size_t count, const Faults& words = {}) {
  return [=](const HtmlNode& panel, const std::string& id, Faults& faults) {
    check_texts(panel, id, element, count, faults);
    check_words(panel, id, words, faults);
  };
}

void check_panels(const HtmlNode& page, Faults& faults) {
  check_panel(page, "loss", faults, plot(2, {"each step", "running mean", "validation"}));
  check_panel(page, "validation", faults, plot(1));
  check_panel(page, "learning-rate", faults, plot(1));
  check_panel(page, "gradient-norm", faults, plot(2));
  check_panel(page, "throughput", faults, plot(2, {"evaluation", "save"}));
  check_panel(page, "throughput", faults, [](const auto& panel, const auto& id, Faults& f) {
    const auto marks = panel.all([](const HtmlNode& node) { return node.has_class("mark"); });
    if (marks.size() < 2) f.push_back(id + ": events are not marked");
  });
  check_panel(page, "expert-balance", faults, plot(2));
  check_panel(page, "dead-experts", faults, plot(1));
  check_panel(page, "expert-load", faults, check_heat);
  check_panel(page, "expert-load-over-time", faults, check_heat);
  check_panel(page, "phases", faults,
              table(5, {"data", "forward and backward", "optimizer", "evaluation", "saving"}));
  check_panel(page, "samples", faults, texts("blockquote", 1, {"step "}));
  check_panel(page, "evaluation", faults, table(1, {"all"}));
  check_panel(page, "evaluations", faults, table(2));
  check_panel(page, "routers", faults, table(1, {"gate entropy", "expert loss"}));
  check_panel(page, "model", faults, table(5, {"parameters", "routed experts"}));
  check_panel(page, "environment", faults,
              table(6, {"processor", "memory", "threads", "kernels", "compiler", "quern"}));
  check_panel(page, "commands", faults,
              texts("pre", 3, {"quern train", "quern generate", "quern resume"}));
  check_panel(page, "recipe-differences", faults, table(3, {"model.hidden_size"}));
  check_panel(page, "recipe", faults, texts("pre", 1, {"optim {", "lr:"}));
}

void check_style(const HtmlNode& page, Faults& faults) {
  std::string style;
  for (const HtmlNode* node : page.named("style")) style += node->text;
  for (const char* part : {"color-scheme: light dark", "@media (prefers-color-scheme: dark)"}) {
    if (style.find(part) == style.npos) faults.push_back(std::string("style: no ") + part);
  }
}

}  // namespace

std::vector<std::string> report_faults(std::string_view html) {
  Faults faults;
  if (html.size() >= kMaxBytes) faults.push_back("larger than 2 MB");
  try {
    const HtmlNode page = parse_html(html);
    const std::string outside = outside_reference(page);
    if (!outside.empty()) faults.push_back("<" + outside + "> reaches out of the page");
    check_style(page, faults);
    check_panels(page, faults);
  } catch (const std::runtime_error& error) {
    faults.push_back(error.what());
  }
  return faults;
}

}  // namespace quern::testing
