// SPDX-License-Identifier: MIT
// The text of a recipe. What is taken can be printed and read again.
#include "quern/recipes/recipe.h"

#include "tests/fuzz/guard.h"

using namespace quern;

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(fuzz::text_of(data, size));
  fuzz::guarded(size, [&] {
    const Recipe recipe = parse_recipe(text, "recipe.textproto");
    fuzz::must_succeed("a printed recipe can be read", [&] {
      const bool same = parse_recipe(to_text(recipe), "printed.textproto") == recipe;
      fuzz::require(same, "a printed recipe is the same recipe");
    });
  });
  return 0;
}
