// SPDX-License-Identifier: MIT
// Limits to how many copies of tokens an expert, or a device, takes. None of this has a gradient of
// its own: a copy that is dropped adds nothing and gets nothing.
#pragma once

#include <span>
#include <vector>

#include "quern/autograd/tensor.h"

namespace quern::ops {

// Who is served first where there is not room for all.
//   position  the first choices of all tokens in order, then the second ones, ... (GShard,
//             arXiv:2006.16668, algorithm 1; Switch Transformers, arXiv:2101.03961, section 2.2)
//   score     the highest score, then the lowest token, then the lowest expert (DeepSeek-V2,
//             arXiv:2405.04434, section 2.2.4)
enum class CapacityOrder { position, score };

struct CapacityRule {
  i64 bins = 1;      // equal runs of experts that share their room
  i64 capacity = 1;  // copies a bin takes
  CapacityOrder order = CapacityOrder::position;
  std::vector<bool> exempt;  // [tokens] or empty: served before all others, and never dropped
};
// `ids` with -1 where a copy is dropped.
// ids: i32 [tokens, top_k];  scores: [tokens, experts], which `position` needs for its shape alone
Tensor within_capacity(const Tensor& ids, const Tensor& scores, const CapacityRule& rule);

// Each expert takes the `capacity` tokens of its highest scores, ties to the lowest token (expert
// choice, arXiv:2202.09368, section 3.2). A token's experts in rising order, then -1: as many
// columns as the most sought token has experts, at least one.
// scores: [tokens, experts]  ->  i32 [tokens, columns]
Tensor expert_choice(const Tensor& scores, i64 capacity);

}  // namespace quern::ops
