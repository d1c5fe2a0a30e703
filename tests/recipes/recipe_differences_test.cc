// SPDX-License-Identifier: MIT
// What a recipe changes: every field is seen, and reads back through --set.
#include "quern/recipes/recipe_differences.h"

#include <gtest/gtest.h>

#include "tests/recipes/run_fixture.h"

namespace quern {
namespace {

TEST(RecipeDifferences, NamesWhatDiffersFromTheDefaults) {
  Recipe recipe;
  EXPECT_TRUE(differences({Recipe{}, recipe}).empty());
  recipe.optim.lr = 3e-4;
  recipe.train.sample_prompts = {"a", "b"};
  recipe.data.train = {{"x.h5", 2}};
  recipe.model.rope_scaling.emplace().factor = 4;
  const auto found = differences({Recipe{}, recipe});
  const auto values_of = [&](const std::string& path) -> std::vector<std::string> {
    for (const FieldDifference& d : found) {
      if (d.path == path) return d.values;
    }
    return {"absent"};
  };
  using Values = std::vector<std::string>;
  EXPECT_EQ(values_of("optim.lr"), (Values{"0.001", "3e-04"}));
  EXPECT_EQ(values_of("train.sample_prompts"), (Values{"", "['a', 'b']"}));
  EXPECT_EQ(values_of("data.train[0].path"), (Values{"", "'x.h5'"}));
  EXPECT_EQ(values_of("data.train[0].weight"), (Values{"", "2"}));
  EXPECT_EQ(values_of("model.rope_scaling.factor"), (Values{"", "4"}));
  EXPECT_EQ(values_of("optim.beta1"), Values{"absent"});
}

// The values are what --set takes: applied to the defaults they give the recipe back.
TEST(RecipeDifferences, ReadBackAsOverrides) {
  TempDir dir;
  testing::prepare_corpus(dir, "corpus");
  const Recipe recipe = testing::tiny_recipe(dir);
  std::vector<std::string> overrides;
  for (const auto& [path, value] : recipe_fields(recipe)) {
    if (path.starts_with("data.train[")) continue;  // an element must exist before it is changed
    overrides.push_back(path + "=" + value);
  }
  const std::string source = "data { train { path: '" + recipe.data.train[0].path + "' } }";
  EXPECT_EQ(parse_recipe(source, "test", overrides), recipe);
}

TEST(RecipeDifferences, ComparesMany) {
  Recipe a, b, c;
  b.train.steps = 7;
  c.train.steps = 7;
  const auto found = differences({a, b, c});
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].values, (std::vector<std::string>{"0", "7", "7"}));
}

}  // namespace
}  // namespace quern
