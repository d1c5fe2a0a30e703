// SPDX-License-Identifier: MIT
#include "quern/recipes/profile.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "quern/recipes/trainer.h"
#include "tests/recipes/run_fixture.h"

namespace quern {
namespace {

TEST(Profile, GivesEachOperationItsTime) {
  const TempDir dir;
  testing::prepare_corpus(dir, "corpus");
  Recipe recipe = testing::tiny_recipe(dir);  // two layers; two micro-batches a step
  const Profile p = profile_steps(recipe, make_sampler(recipe), 3);
  EXPECT_EQ(p.steps, 3);
  ASSERT_TRUE(p.by_op.contains("mla_attention"));
  EXPECT_EQ(p.by_op.at("mla_attention").calls, 3 * 2 * 2);
  EXPECT_EQ(p.by_op.at("expert_ffn").calls, 3 * 2);  // one of the layers is dense
  EXPECT_TRUE(p.by_module.contains("model.layers.*.self_attn.o_proj"));
  double operations = 0, modules = 0, events = 0;
  for (const auto& [name, row] : p.by_op) {
    EXPECT_GE(row.forward_s, 0) << name;
    operations += row.seconds();
  }
  for (const auto& [name, row] : p.by_module) modules += row.seconds();
  for (const ProfileEvent& e : p.events) events += e.seconds;
  EXPECT_GT(p.by_op.at("linear").backward_s, 0);
  EXPECT_NEAR(operations, modules, 1e-9);
  EXPECT_NEAR(operations, events, 1e-9);
  EXPECT_LE(operations + p.optimizer_s, p.step_s);
  EXPECT_GT(operations, 0.2 * p.step_s);
  // The rule's, without the norms' gains, and each token sees itself too.
  const i64 tokens = 3 * 4 * 16;
  const double rule = flops_per_token(recipe.model, 16) -
                      6.0 * double(count_parameters(recipe.model).norms) + 3.0 * 2 * 2 * (8 + 4);
  double flops = 0;
  for (const auto& [name, row] : p.by_op) flops += row.flops;
  EXPECT_NEAR(flops, double(tokens) * rule, 1);
  // q, k and v: 2 heads of 8, 4 and 4 columns and 4 that all share; the result: 2 of 4. Read and
  // written forward; backward reads all and writes the gradients of the former.
  EXPECT_EQ(p.by_op.at("mla_attention").bytes,
            2.0 * tokens * 4 * ((2 * 8 + 2 * (4 + 4) + 4) * 3 + 2 * 4 * 2));
  EXPECT_EQ(p.by_op.at("reshape").bytes, 0);
  double layers = 0;
  for (const auto& [name, row] : p.by_layer) layers += row.flops;
  EXPECT_NEAR(layers, flops, 1);
  EXPECT_GT(p.by_layer.at("model.layers.1").flops, 0);
  EXPECT_GT(p.product_rate, 0);
  EXPECT_GT(p.memory_rate, 0);
  // Four times the weights' bytes, and both moments twice.
  EXPECT_EQ(p.optimizer_bytes, 3 * 32.0 * double(count_parameters(recipe.model).total));

  const std::string table = table_of(p);
  EXPECT_EQ(table.rfind("3 steps of ", 0), 0u) << table;
  EXPECT_NE(table.find("\nmla_attention "), std::string::npos) << table;
  const nlohmann::json trace = nlohmann::json::parse(trace_of(p));
  ASSERT_EQ(trace["traceEvents"].size(), p.events.size());
  double end = 0;
  for (const auto& e : trace["traceEvents"]) {
    EXPECT_EQ(e["ph"], "X");
    EXPECT_GE(e["ts"].get<double>(), end - 1e-3);  // one after the other
    end = e["ts"].get<double>() + e["dur"].get<double>();
  }
}

}  // namespace
}  // namespace quern
