// SPDX-License-Identifier: MIT
// What a run that starts from another's weights says it has changed.
#include "quern/recipes/before_after.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "quern/recipes/run.h"
#include "tests/recipes/run_fixture.h"

namespace quern {
namespace {

using nlohmann::json;

TEST(BeforeAfter, BothAreMeasuredAlike) {
  const TempDir dir;
  testing::prepare_corpus(dir, "corpus");
  Recipe recipe = testing::tiny_recipe(dir);
  recipe.train.steps = 20;
  recipe.train.eval_every = 0;
  ASSERT_EQ(train_run(recipe, dir / "base"), ExitCode::kDone);
  EXPECT_TRUE(before_after_rows(dir / "base").empty());  // of random weights there is no before
  recipe.train.init_from = dir / "base";
  recipe.data.questions = {dir.file("q.jsonl",
                                    "{\"prompt\": \"the\", \"choices\": [\" sea\", \" zzzz\"], "
                                    "\"answer\": 0}\n")};
  recipe.train.sample_prompts = {"the sea"};
  recipe.train.sample_tokens = 5;
  ASSERT_EQ(train_run(recipe, dir / "same", {}), ExitCode::kDone);
  const json both = json::parse(testing::bytes_of(dir / "same/before_after.json"));
  for (const char* when : {"before", "after"}) {
    const json& at = both[when];
    ASSERT_FALSE(at["evaluation"].empty());
    EXPECT_EQ(at["multiple_choice"][0]["questions"], 1);
    EXPECT_EQ(at["multiple_choice"][0]["chance"], 0.5);
    EXPECT_EQ(at["samples"][0]["prompt"], "the sea");
    const auto shares = at["expert_use"][0]["layers"]["1"].get<std::vector<double>>();
    EXPECT_EQ(i64(shares.size()), recipe.model.n_routed_experts);
    double sum = 0;
    for (const double share : shares) sum += share;
    EXPECT_NEAR(sum, 1, 1e-12);
  }
  EXPECT_LT(both["after"]["evaluation"][0]["bits_per_byte"],
            both["before"]["evaluation"][0]["bits_per_byte"]);
  EXPECT_EQ(both["trained_parameters"], both["parameters"]);
  EXPECT_GT(both["peak_memory_bytes"], 1 << 20);
  // The page shows them, and says which text is meant.
  const std::string page = testing::bytes_of(dir / "same/report.html");
  EXPECT_NE(page.find("id=\"before-after\""), std::string::npos);
  EXPECT_NE(page.find("right answers: q.jsonl"), std::string::npos);
  EXPECT_NE(page.find("experts of layer 1: "), std::string::npos);
  set_num_threads(1);
}

}  // namespace
}  // namespace quern
