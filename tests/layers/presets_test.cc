// SPDX-License-Identifier: MIT
// Published models against the counts that their papers print.
#include "quern/layers/presets.h"

#include <gtest/gtest.h>

#include <cmath>

#include "quern/layers/attention_shape.h"

namespace quern {
namespace {

ModelConfig preset(const std::string& name) { return find_preset(name).value(); }

// Billions, with as many decimals as published.
double rounded(std::int64_t n, int decimals) {
  const double unit = std::pow(10.0, 9 - decimals);
  return std::round(double(n) / unit) / std::pow(10.0, decimals);
}

struct Published {
  const char* name;
  double total, active;  // billions
  int decimals;
};

// Of the three meanings of active, these papers have the one with both tables.
TEST(Presets, HaveThePublishedParameters) {
  const Published models[] = {
      {"deepseek-moe-2b", 2.0, 0.3, 1},       // arXiv:2401.06066, section 4.1.3
      {"deepseek-moe-16b", 16.4, 2.8, 1},     // section 5.1.2
      {"deepseek-moe-145b", 144.6, 22.2, 1},  // section 7.1
      {"deepseek-67b", 67.4, 67.4, 1},        // table 6 there
      {"mixtral-8x7b", 47, 13, 0},            // arXiv:2401.04088
      {"mixtral-8x22b", 141, 39, 0},          // mistral.ai/news/mixtral-8x22b
      {"olmoe-1b-7b", 6.9, 1.3, 1},           // arXiv:2409.02060
      {"llama-2-7b", 6.7, 6.7, 1},            // arXiv:2302.13971, table 2: the same shape
      {"llama-3-8b", 8, 8, 0},                // arXiv:2407.21783
      {"phi-3-mini", 3.8, 3.8, 1},            // arXiv:2404.14219
  };
  for (const Published& m : models) {
    const ParameterCount n = count_parameters(preset(m.name));
    EXPECT_DOUBLE_EQ(rounded(n.total, m.decimals), m.total) << m.name;
    EXPECT_DOUBLE_EQ(rounded(n.active, m.decimals), m.active) << m.name;
  }
}

// The numbers of elements in the weights' files, where all of a model is here; OLMoE's norms of
// queries and keys are not.
TEST(Presets, HaveTheParametersOfTheirFiles) {
  EXPECT_EQ(count_parameters(preset("llama-2-7b")).total, 6'738'415'616);
  EXPECT_EQ(count_parameters(preset("llama-3-8b")).total, 8'030'261'248);
  EXPECT_EQ(count_parameters(preset("mixtral-8x7b")).total, 46'702'792'704);
  EXPECT_EQ(count_parameters(preset("phi-3-mini")).total, 3'821'079'552);
  EXPECT_EQ(count_parameters(preset("olmoe-1b-7b")).total, 6'919'161'856 - 16 * 2 * 2048);
}

// DeepSeekMoE, arXiv:2401.06066, table 1: parameters, and FLOPs of 2,048 tokens.
TEST(Presets, HaveTheTableOfDeepSeekMoe) {
  struct Row {
    const char* name;
    double total, active, flops;
  };
  for (const Row& row :
       {Row{"dense", 0.2, 0.2, 2.9}, Row{"hash", 2.0, 0.2, 2.9}, Row{"switch", 2.0, 0.2, 2.9},
        Row{"gshard", 2.0, 0.3, 4.3}, Row{"deepseek-moe-2b", 2.0, 0.3, 4.3}}) {
    const ModelConfig c = preset(row.name);
    const ParameterCount n = count_parameters(c);
    EXPECT_DOUBLE_EQ(rounded(n.total, 1), row.total) << row.name;
    EXPECT_DOUBLE_EQ(rounded(n.active, 1), row.active) << row.name;
    EXPECT_NEAR(2048 * papers_flops_per_token(c, 2048) * 1e-12, row.flops, 0.05) << row.name;
  }
}

// Tables 6 and 8 there.
TEST(Presets, OfDeepSeekMoeHaveItsExperts) {
  const ModelConfig small = preset("deepseek-moe-2b");
  const ParameterCount n = count_parameters(small);
  const std::int64_t expert = 3 * small.hidden_size * small.moe_intermediate_size;
  EXPECT_DOUBLE_EQ(rounded(n.routed_experts + n.shared_experts, 2), 1.89);
  EXPECT_DOUBLE_EQ(rounded(small.num_hidden_layers * 8 * expert, 2), 0.24);
  const double large = 4096 * papers_flops_per_token(preset("deepseek-moe-145b"), 4096) * 1e-12;
  EXPECT_NEAR(large, 585.6, 0.002 * 585.6);
}

// DeepSeek-V2, arXiv:2405.04434, tables 1 and 9, and section 3.2.3.
TEST(Presets, HaveThePublishedCaches) {
  const ModelConfig v2 = preset("deepseek-v2"), lite = preset("deepseek-v2-lite");
  EXPECT_EQ(cache_elements_per_token(v2), 34'560);          // "34.6K"
  EXPECT_EQ(cache_elements_per_token(lite), 15'552);        // "15.6K"
  EXPECT_EQ(cache_elements_with_heads(lite, 16), 110'592);  // "110.6K", MHA of the same shape
  EXPECT_EQ(cache_elements_with_heads(v2, 128), 2 * 128 * 128 * 60);
  const std::int64_t large = cache_elements_per_token(preset("deepseek-67b"));
  EXPECT_EQ(large, 2 * 8 * 128 * 95);
  // 93.3 % less than DeepSeek 67B, with 6 bits an element against 16.
  EXPECT_NEAR(1 - 6.0 * 34'560 / (16.0 * double(large)), 0.933, 0.0005);
  EXPECT_EQ(cache_elements_per_token(preset("mixtral-8x7b")), 2 * 8 * 128 * 32);
}

TEST(Presets, AreFoundByTheirNames) {
  for (const std::string& name : preset_names()) validate(preset(name));
  EXPECT_FALSE(find_preset("deepseek-v1"));
}

}  // namespace
}  // namespace quern
