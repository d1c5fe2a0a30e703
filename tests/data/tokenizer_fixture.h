// SPDX-License-Identifier: MIT
// What the tokenizer tests share: a small trained tokenizer and random texts.
#pragma once

#include <random>
#include <string>

#include "quern/data/tokenizer.h"

namespace quern::testing {

// Trained on a few hundred kilobytes of made-up text; 600 tokens.
const Tokenizer& small_tokenizer();

std::string random_bytes(std::mt19937& random, int length);
// Valid UTF-8: words, numbers, blanks and marks from many scripts.
std::string random_unicode(std::mt19937& random, int characters);
// Words of a made-up language with few syllables, so that there is something to merge.
std::string random_prose(std::mt19937& random, int words);

}  // namespace quern::testing
