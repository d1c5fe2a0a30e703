// SPDX-License-Identifier: MIT
// The rules, each on its own. Every function takes a text and a place in it where a piece begins.
#pragma once

#include <cstddef>
#include <string_view>

namespace quern::internal {

// Where the piece that begins at `at` < text.size() ends.
std::size_t end_of_gpt2_piece(std::string_view text, std::size_t at);

// The ends of the stages are those of the pieces they have left, at or after `at`; they are moved
// on where `at` has reached them.
std::size_t end_of_deepseek_v3_piece(std::string_view text, std::size_t at, std::size_t& segment);
std::size_t end_of_deepseek_llm_piece(std::string_view text, std::size_t at,
                                      std::size_t (&stage_ends)[3]);

}  // namespace quern::internal
