// SPDX-License-Identifier: MIT
// What to do about a recipe that is refused, where the refusal itself does not say.
#pragma once

#include <string>

#include "quern/autograd/error.h"

namespace quern::internal {

// A remedy for a bad value of the field `key`: its default, or else how such a field is written.
std::string remedy_for_value(const std::string& key);

// A remedy for text that cannot be parsed, by what was expected and found there.
std::string remedy_for_syntax(const ErrorFacts& facts);

}  // namespace quern::internal
