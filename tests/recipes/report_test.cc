// SPDX-License-Identifier: MIT
// report.html: well-formed and escaped whatever the run brought, and of bounded size.
#include "quern/recipes/report.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "quern/recipes/internal/html.h"
#include "quern/recipes/internal/svg_plot.h"
#include "tests/support/html_page.h"

namespace quern {
namespace {

namespace fs = std::filesystem;
using internal::html_escape;
using internal::Point;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

// What is wrong with a page of our making, empty when nothing is.
std::string fault_of(std::string_view html) {
  try {
    return testing::outside_reference(testing::parse_html(html));
  } catch (const std::runtime_error& error) {
    return error.what();
  }
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

StepMetrics step_metrics(i64 step, std::size_t layers, std::size_t experts) {
  StepMetrics m{.step = step, .tokens_seen = step * 4096, .loss = 3 + 7 / double(step)};
  m.lr = 1e-3;
  m.grad_norm = 0.5 + 0.1 * std::sin(double(step));
  m.tokens_per_s = 5000 + double(step * 7919 % 400);
  m.load_max_over_mean = 2;
  m.expert_load.assign(layers, std::vector<double>(experts, 1.0));
  return m;
}

ReportInput full_input() {
  ReportInput input;
  input.title = "tiny";
  input.finished = true;
  for (i64 step = 1; step <= 40; ++step) input.history.steps.push_back(step_metrics(step, 2, 4));
  input.history.steps.back().expert_load[1][2] = 0;
  input.history.steps.back().router = {{.max_load = 1.25}, {.z_loss = 7.5}};
  input.history.evals = {{20, 2.5, 3.5, {{"gospels", 2.6, 700, 200}, {"novel", 2.4, 300, 90}}},
                         {40, 1.9, 3.1, {{"gospels", 2.0, 700, 200}, {"novel", 1.8, 300, 90}}}};
  input.history.samples = {{20, "Once", " upon"}, {40, "Once", " a time"}};
  input.history.events = {{0, "started", "2 threads"}};
  input.compressors = CompressorBaselines{{{"gospels", 700, 250, 190}}, {"all", 1000, 350, 271}};
  input.model = {{"parameters", "1,234"}};
  input.environment = {{"kernels", "avx2"}};
  input.recipe_text = "model { hidden_size: 64 }";
  input.sample_command = "quern generate run";
  input.resume_command = "quern resume run";
  return input;
}

TEST(Report, ShowsWhatItWasGiven) {
  const std::string html = report_html(full_input());
  EXPECT_EQ(fault_of(html), "");
  for (const char* part :
       {"finished", "1.900", "gzip -9", "xz -9e", "2.168" /* 8 * 271 / 1000 */, "gospels", "a time",
        "1,234", "avx2", "hidden_size: 64", "quern resume run", "quern generate run",
        "layer 1, expert 2: 0.00", "step 40", "started: 2 threads", "Routers at step 40", "1.250",
        "7.500", "communication loss"}) {
    EXPECT_TRUE(contains(html, part)) << part;
  }
  EXPECT_FALSE(contains(html, "The model was measured on"));  // on the same bytes here
}

TEST(Report, SaysWhenTheComparisonIsNotOnTheSameBytes) {
  ReportInput input = full_input();
  input.compressors->all.bytes = 2000;
  EXPECT_TRUE(contains(report_html(input), "The model was measured on 1,000 bytes"));
}

TEST(Report, EscapesEverything) {
  const std::string bad = "<script>\"'&\x01\xFF</b>";
  ReportInput input = full_input();
  input.title = input.recipe_text = input.sample_command = input.resume_command = bad;
  input.model = input.environment = {{bad, bad}};
  input.history.samples = {{1, bad, bad}};
  input.history.events = {{1, bad, bad}};
  for (EvalMetrics& eval : input.history.evals) eval.domains[0].name = bad;
  input.compressors->domains[0].name = bad;
  const std::string html = report_html(input);
  EXPECT_EQ(fault_of(html), "");
  EXPECT_TRUE(contains(html, "&lt;script&gt;&quot;&#39;&amp;"));
  EXPECT_EQ(html.find('\x01'), std::string::npos);
  EXPECT_EQ(html.find('\xFF'), std::string::npos);
}

TEST(Report, StandsEmptyAndSinglePoints) {
  EXPECT_EQ(fault_of(report_html({})), "");
  EXPECT_TRUE(contains(report_html({}), "nothing measured yet"));
  ReportInput one;
  one.history.steps = {step_metrics(1, 1, 1)};
  one.history.evals = {{.step = 0, .bits_per_byte = 8}};
  const std::string html = report_html(one);
  EXPECT_EQ(fault_of(html), "");
  EXPECT_TRUE(contains(html, "<circle"));
}

TEST(Report, StandsNumbersThatAreNotFinite) {
  ReportInput input = full_input();
  for (std::size_t i = 0; i < input.history.steps.size(); ++i) {
    StepMetrics& step = input.history.steps[i];
    const double odd = i % 5 == 0 ? kNan : i % 5 == 1 ? kInfinity : i % 5 == 2 ? 1e308 : -1e308;
    step.loss = step.grad_norm = step.lr = step.tokens_per_s = step.load_max_over_mean = odd;
    step.elapsed_s = odd;
  }
  input.history.steps.back().expert_load[0] = {kNan, kInfinity, -1, 1e308};
  input.history.evals[1].bits_per_byte = input.history.evals[1].domains[0].bits_per_byte = kNan;
  const std::string html = report_html(input);
  EXPECT_EQ(fault_of(html), "");
  for (const char* part : {"nan", "\"inf", "-inf", " inf"}) EXPECT_FALSE(contains(html, part));
}

TEST(Report, StaysSmallForLongRuns) {
  ReportInput input = full_input();
  input.history = {};
  input.recipe_text.assign(5 << 20, 'r');
  input.title.assign(1 << 20, 't');
  for (i64 step = 1; step <= 50000; ++step) {
    input.history.steps.push_back(step_metrics(step, step == 50000 ? 60 : 0, 256));
    if (step % 10 == 0) {
      EvalMetrics eval{.step = step, .bits_per_byte = 2 + 1 / double(step)};
      for (int d = 0; d < 20; ++d) eval.domains.push_back({"domain " + std::to_string(d), 2, 9, 3});
      input.history.evals.push_back(eval);
      input.history.samples.push_back({step, "prompt", std::string(5000, 's')});
      input.history.events.push_back({step, "saved", std::string(500, 'e')});
    }
  }
  // No two neighbours of a colour: the most that loads over time can take.
  for (i64 step = 1; step <= 64; ++step) {
    std::vector<std::vector<double>> load(60, std::vector<double>(256));
    for (std::size_t l = 0; l < 60; ++l) {
      for (std::size_t e = 0; e < 256; ++e)
        load[l][e] = double((std::size_t(step) * 7 + l + e * 3) % 6);
    }
    input.history.loads.add(step, load);
  }
  for (int p = 0; p < 500; ++p) {
    input.history.phases.push_back({1, "phase " + std::to_string(p) + std::string(500, 'p'), 1});
  }
  const std::string html = report_html(input);
  EXPECT_EQ(fault_of(html), "");
  EXPECT_NE(html.find("id=\"expert-load-over-time\""), html.npos);
  EXPECT_LT(html.size(), 2000000u);
}

TEST(Report, IsWrittenWhole) {
  const fs::path folder =
      fs::path(::testing::TempDir()) / ("quern_report_" + std::to_string(::getpid()));
  fs::remove_all(folder);
  write_report(folder / "report.html", full_input());
  std::ifstream in(folder / "report.html", std::ios::binary);
  const std::string html{std::istreambuf_iterator<char>(in), {}};
  EXPECT_EQ(html, report_html(full_input()));
  EXPECT_EQ(std::distance(fs::directory_iterator(folder), {}), 1);
  fs::remove_all(folder);
}

std::size_t occurrences(const std::string& text, const std::string& part) {
  std::size_t count = 0;
  for (std::size_t at = text.find(part); at != text.npos; at = text.find(part, at + 1)) ++count;
  return count;
}

TEST(SvgPlot, BreaksTheLineAtValuesItCannotShow) {
  internal::Plot plot{.lines = {{.name = "x", .style = "c0"}}};
  plot.lines[0].points = {{1, 2.0}, {2, 3.0}, {3, kNan}, {4, 2.5}, {5, -kInfinity}, {6, 1.0}};
  const std::string svg = internal::svg_plot(plot);
  EXPECT_EQ(fault_of(svg), "");
  EXPECT_EQ(occurrences(svg, "h0"), 3u);  // each piece of a line begins so
  EXPECT_FALSE(contains(svg, "nan") || contains(svg, "inf"));
  plot.log_y = true;
  plot.lines[0].points[1].y = 0;
  EXPECT_EQ(occurrences(internal::svg_plot(plot), "h0"), 3u);  // at 1, 4 and 6
}

TEST(SvgPlot, ZerosAloneHaveAPlainAxis) {
  internal::Plot plot{.lines = {{.name = "x", .style = "c0"}}, .from_zero = true};
  plot.lines[0].points = {{1, 0}, {2, 0}, {3, 0}};
  const std::string svg = internal::svg_plot(plot);
  EXPECT_FALSE(contains(svg, "e-1")) << svg;
  EXPECT_TRUE(contains(svg, ">1<")) << svg;
}

TEST(SvgPlot, OutliersDoNotFlattenTheRest) {
  internal::Plot plot{.lines = {{.name = "x", .style = "c0"}}};
  for (int i = 0; i < 500; ++i) plot.lines[0].points.push_back({double(i), 1 + i % 10 / 10.0});
  plot.lines[0].points[77].y = 1e30;
  const std::string svg = internal::svg_plot(plot);
  EXPECT_EQ(fault_of(svg), "");
  EXPECT_TRUE(contains(svg, ">2</text>"));  // a tick of the ordinary values
}

TEST(Downsampled, KeepsSpikesEndsAndBound) {
  std::vector<Point> points;
  for (int i = 0; i < 50000; ++i) points.push_back({double(i), i == 12345 ? 99.0 : 1.0 / (i + 1)});
  for (int i = 20000; i < 30000; ++i) points[std::size_t(i)].y = kNan;
  for (const std::size_t bound : {4u, 5u, 100u, 901u}) {
    const std::vector<Point> thin = internal::downsampled(points, bound);
    EXPECT_LE(thin.size(), bound);
    EXPECT_EQ(thin.front().x, 0);
    EXPECT_EQ(thin.back().x, 49999);
    bool spike = false, gap = false;
    for (std::size_t i = 0; i < thin.size(); ++i) {
      spike |= thin[i].y == 99;
      gap |= std::isnan(thin[i].y);
      EXPECT_TRUE(i == 0 || thin[i - 1].x < thin[i].x);
    }
    EXPECT_TRUE(spike) << bound;
    EXPECT_TRUE(gap || bound < 100) << bound;
  }
  EXPECT_EQ(internal::downsampled(points, points.size()).size(), points.size());
}

TEST(Smoothed, FollowsALineAndPassesGapsOver) {
  std::vector<Point> points;
  for (int i = 0; i < 400; ++i) points.push_back({double(i), 3.0 * i});
  points[200].y = kNan;
  const std::vector<Point> smooth = internal::smoothed(points);
  EXPECT_NEAR(smooth[100].y, 300, 1e-9);  // no lag
  EXPECT_TRUE(std::isnan(smooth[200].y));
  EXPECT_TRUE(std::isfinite(smooth[201].y));
}

TEST(HtmlEscape, KeepsUtf8AndReplacesTheRest) {
  const std::string bad = "\xEF\xBF\xBD";
  EXPECT_EQ(html_escape("a\tb\n\xE2\x82\xAC \xF0\x9F\x98\x80"),
            "a\tb\n\xE2\x82\xAC \xF0\x9F\x98\x80");
  EXPECT_EQ(html_escape("\xC0\x80"), bad + bad);            // overlong
  EXPECT_EQ(html_escape("\xED\xA0\x80"), bad + bad + bad);  // a surrogate
  EXPECT_EQ(html_escape("\xE2\x82"), bad + bad);            // cut short
  EXPECT_EQ(html_escape(std::string_view("\0\x1B\x7F", 3)), bad + bad + bad);
}

TEST(Shortened, NeverCutsACharacter) {
  EXPECT_EQ(internal::shortened("abc", 3), "abc");
  EXPECT_EQ(internal::shortened("ab\xE2\x82\xAC!", 4), "ab \xE2\x80\xA6");
}

}  // namespace
}  // namespace quern
