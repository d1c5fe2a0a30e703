// SPDX-License-Identifier: MIT
// A small prepared corpus and a recipe whose steps take about a millisecond.
#pragma once

#include <string>

#include "quern/recipes/recipe.h"
#include "tests/support/temp_dir.h"

namespace quern::testing {

// Sentences of a made-up language, always the same for a number.
std::string made_up_text(int number, int sentences);

// Prepares `dir`/<name>/{tokenizer.json,train.h5,validation.h5} from 40 documents numbered from
// `first`; with the tokenizer of `like`, if given.
void prepare_corpus(const TempDir& dir, const std::string& name, int first = 0,
                    const std::string& like = "");

// Trains on `dir`/`name`: two layers, dense and MoE, 4 sequences of 16 tokens a step.
Recipe tiny_recipe(const TempDir& dir, const std::string& name = "corpus");

std::string bytes_of(const std::filesystem::path& file);

}  // namespace quern::testing
