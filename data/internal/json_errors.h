// SPDX-License-Identifier: MIT
// What nlohmann-json complains about, in words of our own and with a place in the text.
#pragma once

#include <string>
#include <string_view>

#include "quern/autograd/error.h"

namespace quern {

// `text` made fit for one line of an error: control characters and broken UTF-8 replaced, cut when
// long.
std::string json_excerpt(std::string_view text);

// The facts of the parser's exception `said`: what is wrong, what was expected, what to do.
ErrorFacts json_syntax_facts(std::string_view said);

// Adds file, line and column; the text begins at `first_line`.
ErrorFacts placed(ErrorFacts facts, const std::string& file, std::string_view text,
                  std::size_t offset, int first_line = 1);

// Throws DataError at the first byte that is no UTF-8.
void check_json_utf8(std::string_view text, const std::string& file, int first_line = 1);

// Throws DataError at the first byte that is no UTF-8, and at a string, a number (1,024 bytes) or a
// gap between them (65,536) that is longer than any honest one: the parser holds them several times
// over.
constexpr std::size_t kMaxJsonString = std::size_t(1) << 20;
void check_json_text(std::string_view text, const std::string& file, int first_line = 1,
                     std::size_t max_string = kMaxJsonString);

}  // namespace quern
