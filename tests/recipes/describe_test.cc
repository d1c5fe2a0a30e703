// SPDX-License-Identifier: MIT
#include "quern/recipes/describe.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <map>

#include "quern/autograd/kernels/types.h"
#include "quern/layers/presets.h"
#include "quern/recipes/rank_layout.h"

namespace quern {
namespace {

std::map<std::string, std::string> texts(const ModelConfig& config) {
  std::map<std::string, std::string> all;
  for (const auto& [what, text] : rows_of(describe_model(config, 4096))) all[what] = text;
  return all;
}

// Each saving names what it is measured against.
TEST(DescribeModel, ComparesTheCacheWithOtherAttention) {
  auto lite = texts(find_preset("deepseek-v2-lite").value());
  EXPECT_EQ(lite["cache elements per token"], "15,552");
  EXPECT_EQ(lite["cache bytes per token"], "62,208 at 32 bits");
  EXPECT_EQ(lite["  with MHA"], "442,368, 16 x 256 elements a layer; this is 14.1% of it");
  EXPECT_EQ(lite["  with GQA-8"], "221,184, 8 x 256 elements a layer; this is 28.1% of it");
  EXPECT_EQ(lite["  with MQA"], "27,648, 1 x 256 elements a layer; this is 225.0% of it");
}

TEST(DescribeModel, DoesNotCompareTheCacheWithItself) {
  auto mixtral = texts(find_preset("mixtral-8x7b").value());
  EXPECT_EQ(mixtral["cache elements per token"], "65,536");
  EXPECT_EQ(mixtral["  with MHA"], "1,048,576, 32 x 256 elements a layer; this is 25.0% of it");
  EXPECT_FALSE(mixtral.contains("  with GQA-8"));
  ModelConfig tiny;  // four heads: no eight groups
  EXPECT_FALSE(texts(tiny).contains("  with GQA-8"));
  EXPECT_TRUE(texts(tiny).contains("  with MQA"));
}

// Half of the memory for weights is room for them, and none for their gradients and moments.
TEST(FitsMemory, CountsWhatIsCertainlyTrained) {
  Recipe r;
  r.train.dtype = "fp32";
  r.model.hidden_size = r.model.moe_intermediate_size = 1024;
  r.model.num_hidden_layers = 2;  // the first is dense
  const double memory = double(::sysconf(_SC_PHYS_PAGES)) * double(::sysconf(_SC_PAGE_SIZE));
  r.model.n_routed_experts = i64(memory / 2 / (4 * 3 * 1024 * 1024));
  EXPECT_FALSE(fits_memory(r));
  r.finetune.frozen = {"*.experts.*"};
  EXPECT_TRUE(fits_memory(r));
  r.finetune = {.method = "experts"};  // still to be selected
  EXPECT_TRUE(fits_memory(r));
  r.finetune = {.method = "lora"};
  EXPECT_TRUE(fits_memory(r));
  r.model.n_routed_experts *= 3;
  EXPECT_FALSE(fits_memory(r));
}

// What does not depend on where experts and moments are is the same; the rest is the ranks' share.
TEST(EstimateMemory, IsThatOfARank) {
  Recipe r;
  r.train.dtype = "fp32";
  r.train.lanes = 4;
  const ParameterCount n = count_parameters(r.model);
  const MemoryEstimate one = estimate_memory(r, n.total),
                       four = estimate_memory(r, n.total, {4, 1});
  EXPECT_EQ(one.moments, 8 * n.total);
  EXPECT_EQ(four.moments, one.moments);
  EXPECT_EQ(four.parameters, one.parameters);
  EXPECT_EQ(one.lane_sums, 2 * 4 * n.total);
  EXPECT_EQ(four.lane_sums, 0);  // a lane for each
  const MemoryEstimate spread = estimate_memory(r, n.total, {4, 4});
  const i64 elsewhere = n.routed_experts * 3 / 4;
  EXPECT_EQ(spread.parameters, one.parameters - 4 * elsewhere);
  EXPECT_EQ(spread.moments, one.moments - 8 * elsewhere);
  EXPECT_EQ(spread.gradients, one.gradients);
  EXPECT_GT(spread.activations, one.activations);
  r.distributed.shard_optimizer = true;
  EXPECT_EQ(estimate_memory(r, n.total, {4, 1}).moments, 2 * n.total);
  EXPECT_EQ(estimate_memory(r, n.total, {4, 4}).moments, 2 * n.total);
  r.optim.moments_dtype = "bf16";
  EXPECT_EQ(estimate_memory(r, n.total, {4, 1}).moments, n.total);
  EXPECT_EQ(estimate_memory(r, n.total).total(), one.total() - 4 * n.total);
}

TEST(FitsMemory, IsEasierForRanksThatShareExperts) {
  Recipe r;
  r.train.dtype = "fp32";
  r.model.hidden_size = r.model.moe_intermediate_size = 1024;
  r.model.num_hidden_layers = 2;
  const double memory = double(::sysconf(_SC_PHYS_PAGES)) * double(::sysconf(_SC_PAGE_SIZE));
  r.model.n_routed_experts = 8 * i64(memory / 8 / (16 * 3 * 1024 * 1024) * 1.2);
  EXPECT_FALSE(fits_memory(r));
  EXPECT_FALSE(fits_memory(r, {8, 1}));
  EXPECT_TRUE(fits_memory(r, {8, 8}));
}

}  // namespace
}  // namespace quern
