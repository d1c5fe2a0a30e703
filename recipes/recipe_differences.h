// SPDX-License-Identifier: MIT
// Recipes field by field: what one changes of the defaults, or of another.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "quern/recipes/recipe.h"

namespace quern {

// Every field that is set: path ("data.train[0].path") and value, as --set takes it.
std::vector<std::pair<std::string, std::string>> recipe_fields(const Recipe& recipe);

struct FieldDifference {
  std::string path;
  std::vector<std::string> values;  // one for each recipe; empty where it has no such field
};

// The fields that are not the same in all of them, in the order of the schema.
std::vector<FieldDifference> differences(const std::vector<Recipe>& recipes);

}  // namespace quern
