// SPDX-License-Identifier: MIT
// Several runs on one page: all of them in every curve, and only what differs in the tables.
#include "quern/recipes/report_compare.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <stdexcept>

#include "quern/autograd/error.h"
#include "tests/recipes/run_fixture.h"
#include "tests/support/html_page.h"

namespace quern {
namespace {

namespace fs = std::filesystem;
using testing::HtmlNode;

StepMetrics step_metrics(i64 step, double scale) {
  return {.step = step,
          .tokens_seen = step * 64,
          .loss = scale * (3 + 1 / double(step)),
          .lr = 1e-3,
          .grad_norm = scale,
          .tokens_per_s = 1000 * scale,
          .load_max_over_mean = 1 + scale};
}

// A run as its folder would describe it, with a name that needs escaping.
ComparedRun made_up(const std::string& name, double scale) {
  ComparedRun run{.name = name};
  run.recipe.optim.lr = scale;
  for (i64 step = 1; step <= 100; ++step)
    run.input.history.steps.push_back(step_metrics(step, scale));
  for (i64 step : {50, 100}) {
    run.input.history.evals.push_back(
        {.step = step, .bits_per_byte = scale * 2 - double(step) / 1e3});
  }
  run.input.environment = {{"processor", "one"}, {"threads", scale == 1 ? "2" : "4"}};
  run.input.model = {{"parameters", "12k"}};
  run.input.finished = scale == 1;
  return run;
}

std::size_t rows_of(const HtmlNode& page, const std::string& id) {
  const HtmlNode* panel = page.with_id(id);
  if (panel == nullptr) return 0;
  std::size_t rows = 0;
  for (const HtmlNode* body : panel->named("tbody")) rows += body->named("tr").size();
  return rows;
}

// The first run ends at 1.9 bits per byte; the second is there after its evaluation at step 50.
TEST(Compare, TimesAndBalanceAreOfTheRunsHistory) {
  ComparedRun first = made_up("first", 1), second = made_up("second", 1);
  for (StepMetrics& s : second.input.history.steps) {
    s.elapsed_s = double(s.step) * 7;
    s.load_max_over_mean = s.step <= 50 ? 9 : 1.25 + double(s.step % 2);
    s.dead_experts = s.step < 50 || (s.step >= 60 && s.step < 85) ? 2 : 0;
  }
  second.input.history.evals = {{.step = 50, .bits_per_byte = 1.85},
                                {.step = 100, .bits_per_byte = 1.8}};
  const HtmlNode page = testing::parse_html(comparison_html({first, second}));
  const std::string figures = page.with_id("figures")->whole_text();
  EXPECT_NE(figures.find("5m50s"), std::string::npos) << figures;  // 350 s
  EXPECT_NE(figures.find("0.75"), std::string::npos) << figures;   // 1/4 and 5/4, one by one
  EXPECT_NE(figures.find("25"), std::string::npos) << figures;     // steps 60 to 84
}

TEST(Compare, ShowsEveryRunInEveryCurve) {
  const std::vector<ComparedRun> runs{made_up("a<b>&c", 1), made_up("second", 2), made_up("x", 3)};
  const std::string html = comparison_html(runs);
  const HtmlNode page = testing::parse_html(html);
  EXPECT_EQ(testing::outside_reference(page), "");
  for (const char* id :
       {"loss", "validation", "gradient-norm", "learning-rate", "throughput", "expert-balance"}) {
    const HtmlNode* panel = page.with_id(id);
    ASSERT_NE(panel, nullptr) << id;
    const auto lines = panel->all([](const HtmlNode& n) {
      return n.has_class("line") && n.attribute("d").find('L') != std::string::npos;
    });
    EXPECT_EQ(lines.size(), 3u) << id;
    EXPECT_NE(panel->whole_text().find("a&lt;b&gt;&amp;c"), std::string::npos) << id;
  }
  EXPECT_EQ(rows_of(page, "figures"), 3u);
  EXPECT_EQ(rows_of(page, "recipe-differences"), 1u);       // optim.lr
  EXPECT_EQ(rows_of(page, "environment-differences"), 1u);  // threads, not the processor
  const std::string figures = page.with_id("figures")->whole_text();
  for (const char* part : {"finished", "in progress", "1.900", "5.900", "12k"}) {
    EXPECT_NE(figures.find(part), std::string::npos) << part;
  }
}

TEST(Compare, StaysSmall) {
  std::vector<ComparedRun> runs;
  for (std::size_t i = 0; i < kMaxComparedRuns; ++i) {
    runs.push_back(made_up("run " + std::to_string(i), 1 + double(i)));
    RunHistory& history = runs.back().input.history;
    history.steps.clear();
    for (i64 step = 1; step <= 20000; ++step) {
      history.steps.push_back(step_metrics(step, 1 + 0.1 * double(step * 7919 % 101)));
    }
  }
  const std::string html = comparison_html(runs);
  EXPECT_LT(html.size(), 2'000'000u);
  testing::parse_html(html);
}

TEST(Compare, StandsRunsThatHaveNotBegun) {
  std::vector<ComparedRun> runs{made_up("a", 1), made_up("b", 2)};
  for (ComparedRun& run : runs) run.input.history = {};
  EXPECT_NO_THROW(testing::parse_html(comparison_html(runs)));
}

TEST(Compare, ReadsFoldersAndTellsThemApart) {
  TempDir dir;
  testing::prepare_corpus(dir, "corpus");
  const Recipe recipe = testing::tiny_recipe(dir);
  for (const char* folder : {"one/run", "two/run", "two/other"}) {
    dir.file(std::string(folder) + "/recipe.textproto", to_text(recipe));
    dir.file(std::string(folder) + "/metrics.jsonl", "");
  }
  const auto runs = read_runs({dir / "one/run", dir / "two/run", dir / "two/other/"});
  ASSERT_EQ(runs.size(), 3u);
  EXPECT_NE(runs[0].name, runs[1].name);
  EXPECT_EQ(runs[2].name, "other");
  EXPECT_THROW(read_runs({dir / "nowhere"}), ConfigError);
  EXPECT_THROW(read_runs(std::vector<fs::path>(9, dir / "one/run")), ConfigError);
}

}  // namespace
}  // namespace quern
