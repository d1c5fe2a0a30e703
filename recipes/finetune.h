// SPDX-License-Identifier: MIT
// Which of a model's parameters a recipe trains.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "quern/data/token_file.h"
#include "quern/layers/model.h"
#include "quern/recipes/recipe.h"

namespace quern {

// Whether `name` is as `pattern`, in which each * stands for any text.
bool matches(const std::string& pattern, const std::string& name);

// Freezes what the recipe does not train, and returns the rest. Throws ConfigError for a pattern
// that no parameter is like, for a selection that is another model's, and where nothing is left.
std::vector<Parameter*> trained_parameters(Model& model, const Recipe& recipe);

// Settles what a run that fine-tunes does not say itself: without finetune.balance_losses the
// model's auxiliary losses become 0; without an experts_file, experts are chosen for the tokens of
// the first training file by the weights of train.init_from, with their scores in
// RUN/expert_scores.json. RUN/experts.json holds the selection either way. Throws StopRequested.
void settle_finetuning(Recipe& recipe, const TokenFile& text, const std::filesystem::path& run);

// With the selection that a run began with by the path where its folder lies now.
Recipe with_own_selection(Recipe recipe, const std::filesystem::path& run);

// "1.2M of 5.0M (24 %)", and which experts.
std::string trained_text(std::span<Parameter* const> trained, const Recipe& recipe);

// Numbers of weights that are trained, at most: patterns (frozen, lora_targets) are not looked at,
// and experts that are still to be selected count as all.
i64 count_trained(const Recipe& recipe);
// At least: 0 where that is not known.
i64 least_trained(const Recipe& recipe);

}  // namespace quern
