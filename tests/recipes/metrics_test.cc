// SPDX-License-Identifier: MIT
// metrics.jsonl comes back as it was written, is cut back on resume and survives a torn line.
#include "quern/recipes/metrics.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>

#include "quern/autograd/error.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

class MetricsTest : public testing::Test {
 protected:
  MetricsTest() {
    const auto* info = testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::path(testing::TempDir()) /
              ("quern_metrics_" + std::to_string(::getpid()) + info->name());
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  ~MetricsTest() override { fs::remove_all(folder_); }

  fs::path log() const { return folder_ / "metrics.jsonl"; }
  std::string text() const {
    std::ifstream in(log(), std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  void write(const std::string& text) const { std::ofstream(log(), std::ios::binary) << text; }

  fs::path folder_;
};

// Two layers, every figure another.
std::vector<RouterMetrics> router_metrics() {
  std::vector<RouterMetrics> router(2);
  double x = 0.5;
  for (RouterMetrics& layer : router) {
    for (const RouterMetric& metric : kRouterMetrics) layer.*metric.value = x += 0.0625;
  }
  return router;
}

StepMetrics step_metrics(i64 step) {
  return {.step = step,
          .tokens_seen = step * 4096,
          .loss = 10.0 / 3 + double(step),
          .aux_loss = 0.1,
          .lr = 1e-3 / 3,
          .grad_norm = 0.7,
          .seconds = 0.25,
          .data_s = 0.01,
          .forward_backward_s = 0.2,
          .optimizer_s = 0.03,
          .tokens_per_s = 16384,
          .share_of_peak = 0.41,
          .elapsed_s = 0.25 * double(step),
          .expert_load = {{0.5, 1.5}, {2, 0}},
          .router = router_metrics(),
          .dead_experts = 1,
          .load_max_over_mean = 2,
          .memory_bytes = std::size_t(5) << 30};
}

TEST_F(MetricsTest, ComesBackAsWritten) {
  MetricsLog out(log(), 0);
  out.append(EventMetrics{.step = 0, .name = "started", .detail = "2 threads"});
  out.append(step_metrics(1));
  out.append(EvalMetrics{1, 2.25, 3.5, {{"gospels", 2.5, 1000, 250}, {"novel", 2.0, 900, 240}}});
  out.append(SampleMetrics{1, "In the \"beginning\"\n", "\tthere was \xE2\x82\xAC"});
  out.append(PhaseMetrics{1, "saving", 1.5});
  out.append(EnvironmentMetrics{1, {{"kernels", "avx2"}, {"threads", "2"}}});
  const RunHistory history = read_metrics(log());
  ASSERT_EQ(history.steps.size(), 1u);
  const StepMetrics& step = history.steps[0];
  const StepMetrics expected = step_metrics(1);
  EXPECT_EQ(step.step, 1);
  EXPECT_EQ(step.tokens_seen, 4096);
  EXPECT_EQ(step.loss, expected.loss);  // to the last bit
  EXPECT_EQ(step.aux_loss, expected.aux_loss);
  EXPECT_EQ(step.lr, expected.lr);
  EXPECT_EQ(step.grad_norm, expected.grad_norm);
  EXPECT_EQ(step.seconds, expected.seconds);
  EXPECT_EQ(step.data_s, expected.data_s);
  EXPECT_EQ(step.forward_backward_s, expected.forward_backward_s);
  EXPECT_EQ(step.optimizer_s, expected.optimizer_s);
  EXPECT_EQ(step.tokens_per_s, expected.tokens_per_s);
  EXPECT_EQ(step.share_of_peak, expected.share_of_peak);
  EXPECT_EQ(step.elapsed_s, expected.elapsed_s);
  EXPECT_EQ(step.expert_load, expected.expert_load);
  ASSERT_EQ(step.router.size(), 2u);
  for (const size_t layer : {0u, 1u}) {
    for (const RouterMetric& metric : kRouterMetrics) {
      EXPECT_EQ(step.router[layer].*metric.value, expected.router[layer].*metric.value)
          << metric.name;
    }
  }
  EXPECT_EQ(step.dead_experts, 1);
  EXPECT_EQ(step.load_max_over_mean, 2);
  EXPECT_EQ(step.memory_bytes, expected.memory_bytes);
  ASSERT_EQ(history.evals.size(), 1u);
  EXPECT_EQ(history.evals[0].bits_per_byte, 2.25);
  EXPECT_EQ(history.evals[0].loss, 3.5);
  ASSERT_EQ(history.evals[0].domains.size(), 2u);
  EXPECT_EQ(history.evals[0].domains[1].name, "novel");
  EXPECT_EQ(history.evals[0].domains[1].bits_per_byte, 2.0);
  EXPECT_EQ(history.evals[0].domains[1].bytes, 900);
  EXPECT_EQ(history.evals[0].domains[1].tokens, 240);
  ASSERT_EQ(history.samples.size(), 1u);
  EXPECT_EQ(history.samples[0].prompt, "In the \"beginning\"\n");
  EXPECT_EQ(history.samples[0].text, "\tthere was \xE2\x82\xAC");
  ASSERT_EQ(history.events.size(), 1u);
  EXPECT_EQ(history.events[0].name, "started");
  EXPECT_EQ(history.events[0].detail, "2 threads");
  ASSERT_EQ(history.phases.size(), 1u);
  EXPECT_EQ(history.phases[0].name, "saving");
  EXPECT_EQ(history.phases[0].seconds, 1.5);
  ASSERT_EQ(history.environments.size(), 1u);
  EXPECT_EQ(history.environments[0].rows, (std::vector<std::pair<std::string, std::string>>{
                                              {"kernels", "avx2"}, {"threads", "2"}}));
  ASSERT_EQ(history.loads.spans().size(), 1u);
  EXPECT_EQ(history.loads.spans()[0].load, expected.expert_load);
}

TEST_F(MetricsTest, LogsWithoutPhasesAreRead) {
  MetricsLog(log(), 0).append(step_metrics(1));
  std::string older = text();
  for (const char* key : {"data_s", "forward_backward_s", "optimizer_s"}) {
    const std::size_t begin = older.find(std::string("\"") + key);
    older.erase(begin, older.find(',', begin) + 1 - begin);
  }
  write(older);
  const RunHistory history = read_metrics(log());
  ASSERT_EQ(history.steps.size(), 1u);
  EXPECT_EQ(history.steps[0].data_s, 0);
  EXPECT_EQ(history.steps[0].seconds, 0.25);
}

TEST_F(MetricsTest, LinesReachTheFileAtOnce) {
  MetricsLog out(log(), 0);
  out.append(step_metrics(1));
  EXPECT_TRUE(text().ends_with("}\n"));
}

TEST_F(MetricsTest, NumbersThatAreNotFiniteComeBackAsNan) {
  StepMetrics step = step_metrics(1);
  step.loss = std::numeric_limits<double>::quiet_NaN();
  step.grad_norm = std::numeric_limits<double>::infinity();
  step.expert_load[0][1] = std::numeric_limits<double>::quiet_NaN();
  MetricsLog(log(), 0).append(step);
  const RunHistory history = read_metrics(log());
  EXPECT_TRUE(std::isnan(history.steps.at(0).loss));
  EXPECT_TRUE(std::isnan(history.steps.at(0).grad_norm));
  EXPECT_TRUE(std::isnan(history.steps.at(0).expert_load.at(0).at(1)));
}

TEST_F(MetricsTest, SamplesThatAreNotUtf8AreRepaired) {
  MetricsLog(log(), 0).append(SampleMetrics{3, "p", "caf\xE9 \xF0\x9F ok"});
  const RunHistory history = read_metrics(log());
  ASSERT_EQ(history.samples.size(), 1u);
  EXPECT_EQ(history.samples[0].text, "caf\xEF\xBF\xBD \xEF\xBF\xBD ok");
}

TEST_F(MetricsTest, OnlyTheLastStepKeepsItsLoads) {
  MetricsLog out(log(), 0);
  StepMetrics bare = step_metrics(2);
  bare.expert_load.clear();
  for (const StepMetrics& step : {step_metrics(1), bare, step_metrics(3)}) out.append(step);
  const RunHistory history = read_metrics(log());
  EXPECT_TRUE(history.steps.at(0).expert_load.empty());
  EXPECT_EQ(history.steps.at(2).expert_load.size(), 2u);
}

TEST_F(MetricsTest, ResumeDropsLaterLinesAndTheTornOne) {
  {
    MetricsLog out(log(), 0);
    for (i64 step = 1; step <= 5; ++step) out.append(step_metrics(step));
    out.append(EvalMetrics{.step = 5});
  }
  const std::string all = text();
  write(all + "{\"type\":\"step\",\"step\":2,\"lo");
  MetricsLog out(log(), 3);
  EXPECT_EQ(text(), all.substr(0, all.find("{\"type\":\"step\",\"step\":4")));
  out.append(step_metrics(4));
  const RunHistory history = read_metrics(log());
  ASSERT_EQ(history.steps.size(), 4u);
  EXPECT_EQ(history.steps.back().step, 4);
  EXPECT_TRUE(history.evals.empty());
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), {}), 1) << "a temporary file was left";
}

TEST_F(MetricsTest, ResumeWithoutALogStartsOne) {
  MetricsLog(log(), 7).append(step_metrics(8));
  EXPECT_EQ(read_metrics(log()).steps.size(), 1u);
}

TEST_F(MetricsTest, ANewRunStartsAnEmptyLog) {
  MetricsLog(log(), 0).append(EvalMetrics{.step = 0});
  MetricsLog(log(), 0);
  EXPECT_EQ(text(), "");
}

TEST_F(MetricsTest, UnfinishedLastLineIsPassedOver) {
  for (const char* tail :
       {"{\"type\":\"st", "{\"type\":\"st\n", "{\"type\":\"event\",\"step\":1}"}) {
    write(std::string("{\"type\":\"event\",\"step\":1,\"name\":\"a\",\"detail\":\"\"}\n") + tail);
    EXPECT_EQ(read_metrics(log()).events.size(), 1u) << tail;
  }
}

TEST_F(MetricsTest, UnknownTypesAreKeptOnResume) {
  write("{\"type\":\"later\",\"step\":1,\"x\":[1]}\n");
  EXPECT_TRUE(read_metrics(log()).steps.empty());
  MetricsLog(log(), 1);
  EXPECT_EQ(text(), "{\"type\":\"later\",\"step\":1,\"x\":[1]}\n");
}

TEST_F(MetricsTest, DamagedLinesAreNamed) {
  const std::string good = "{\"type\":\"event\",\"step\":1,\"name\":\"a\",\"detail\":\"\"}\n";
  for (const char* bad : {"{", "[]", "7", "{\"step\":1}", "{\"type\":\"eval\",\"step\":-1}",
                          "{\"type\":\"eval\",\"step\":1e3}",
                          "{\"type\":\"event\",\"step\":1,\"name\":2,\"detail\":\"\"}"}) {
    write(good + bad + "\n" + good);
    try {
      read_metrics(log());
      ADD_FAILURE() << "accepted " << bad;
    } catch (const DataError& error) {
      EXPECT_EQ(error.facts().line, 2) << bad;
    }
  }
  EXPECT_THROW(read_metrics(folder_ / "none.jsonl"), DataError);
}

TEST_F(MetricsTest, ReadsCompressors) {
  EXPECT_FALSE(read_compressors(log()).has_value());
  write(R"({"sources": {"zeta": {"bytes": 10, "gzip": 6, "xz": 5},
                        "alpha": {"bytes": 20, "gzip": 9, "xz": 8}},
            "all": {"bytes": 30, "gzip": 14, "xz": 12}})");
  const CompressorBaselines baselines = read_compressors(log()).value();
  ASSERT_EQ(baselines.domains.size(), 2u);
  EXPECT_EQ(baselines.domains[0].name, "zeta");  // in the order of the file
  EXPECT_EQ(baselines.domains[1].bytes, 20);
  EXPECT_EQ(baselines.domains[1].gzip_bytes, 9);
  EXPECT_EQ(baselines.domains[1].xz_bytes, 8);
  EXPECT_EQ(baselines.all.xz_bytes, 12);
}

TEST_F(MetricsTest, DamagedCompressorsAreRefused) {
  for (const char* bad :
       {"", "[]", "{}", R"({"sources": {}})", R"({"sources": {"a": 3}, "all": {}})",
        R"({"sources": {}, "all": {"bytes": 0, "gzip": 1, "xz": 1}})",
        R"({"sources": {}, "all": {"bytes": -3, "gzip": 1, "xz": 1}})",
        R"({"sources": {}, "all": {"bytes": 3, "gzip": "1", "xz": 1}})"}) {
    write(bad);
    EXPECT_THROW(read_compressors(log()), DataError) << bad;
  }
  write(std::string(2 << 20, ' '));
  EXPECT_THROW(read_compressors(log()), DataError);
}

}  // namespace
}  // namespace quern
