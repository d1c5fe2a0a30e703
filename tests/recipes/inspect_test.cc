// SPDX-License-Identifier: MIT
// What `quern inspect --json` says of published models, digit for digit.
#include "quern/recipes/inspect.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "quern/layers/presets.h"
#include "quern/recipes/hf_config.h"
#include "tests/support/temp_dir.h"

namespace quern {
namespace {

using nlohmann::json;

json inspected(const std::string& path, i64 sequence_length = 4096) {
  return json::parse(json_of(inspect(path, sequence_length)));
}

double rounded(double x, double unit) { return std::round(x / unit) * unit; }

// Billions of parameters: all, and active for a token with both tables, without the input's, and
// without both. The papers' own figures, 15.7B and 2.4B, 236B and 21B, 671B and 37B, 16.4B and
// 2.8B, are among them. Those active in DeepSeekMoE are without its gates, 0.004B.
TEST(Inspect, CountsParametersByEveryConvention) {
  struct Row {
    const char* name;
    double total, active, without_input, without_both;
    bool gates = true;
  };
  for (const Row& row : {Row{"deepseek-v2-lite", 15.706, 2.661, 2.451, 2.242},
                         Row{"deepseek-v2", 235.741, 21.376, 20.852, 20.327},
                         Row{"deepseek-v3", 671.026, 37.552, 36.626, 35.699},
                         Row{"deepseek-moe-16b", 16.376, 2.825, 2.615, 2.406, false}}) {
    const json figures = inspected(row.name);
    const auto billions = [&](const char* key, bool gates) {
      const double router = gates ? 0 : figures["router"].get<double>();
      return rounded((figures[key].get<double>() - router) / 1e9, 1e-3);
    };
    EXPECT_DOUBLE_EQ(billions("parameters", true), row.total) << row.name;
    EXPECT_DOUBLE_EQ(billions("active_per_token", row.gates), row.active) << row.name;
    EXPECT_DOUBLE_EQ(billions("without_input_embedding", row.gates), row.without_input) << row.name;
    EXPECT_DOUBLE_EQ(billions("without_both_embeddings", row.gates), row.without_both) << row.name;
  }
}

// Of one sequence, in units of 1e12, by the rule of DeepSeekMoE (arXiv:2401.06066, tables 1 and 2),
// which leaves gates out.
double teraflops(const std::string& path, i64 sequence_length) {
  const json figures = inspected(path, sequence_length);
  const double per_token =
      figures["by_the_papers_rule"].get<double>() - 6 * figures.value("router", 0.0);
  return per_token * double(sequence_length) / 1e12;
}

TEST(Inspect, CountsFlopsAsTheTablesOfDeepSeekMoe) {
  struct Row {
    const char* name;
    double flops;
  };
  for (const Row& row : {Row{"dense", 2.88}, Row{"hash", 2.88}, Row{"switch", 2.88},
                         Row{"gshard", 4.33}, Row{"deepseek-moe-2b", 4.33}}) {
    EXPECT_DOUBLE_EQ(rounded(teraflops(row.name, 2048), 0.01), row.flops) << row.name;
  }
  EXPECT_DOUBLE_EQ(rounded(teraflops("deepseek-moe-16b", 4096), 0.1), 75.8);
}

// GShard of experts 1.5 times as wide, and a dense model of 16 FFNs in one, as config.json.
TEST(Inspect, CountsFlopsOfWiderModels) {
  constexpr i64 kSixteen = 16 * 8 * 1280 / 3;
  const TempDir dir;
  ModelConfig wide = find_preset("gshard").value(), dense = find_preset("dense").value();
  wide.moe_intermediate_size = 3 * kSixteen / 32;
  dense.intermediate_size = kSixteen;
  const auto flops = [&](const ModelConfig& config) {
    return rounded(teraflops(dir.file("config.json", to_hf_config(config)), 2048), 0.01);
  };
  EXPECT_DOUBLE_EQ(flops(wide), 5.78);
  EXPECT_DOUBLE_EQ(flops(dense), 24.63);
}

}  // namespace
}  // namespace quern
