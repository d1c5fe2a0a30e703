// SPDX-License-Identifier: MIT
// Choosing experts from scores, and weighing them.
#pragma once

#include "quern/autograd/tape.h"

namespace quern::ops {

// The columns of the top_k largest scores of each row, largest first, ties to the lowest column.
// With n_group > 1 only columns in the topk_group best groups may be chosen; groups are contiguous.
// What a group is worth: its best score (device-limited routing, DeepSeek-V2, arXiv:2405.04434,
// section 2.2.2), or the sum of its two best (node-limited, DeepSeek-V3, arXiv:2412.19437, 2.1.2).
enum class GroupScore { best, sum_of_two_best };
struct ChoiceRule {
  i64 top_k = 1, n_group = 1, topk_group = 1;
  GroupScore group_score = GroupScore::best;
  Tensor bias;  // [experts], in the type of the scores: added to each row; or nothing
};
// scores: [tokens, experts]  ->  i32 [tokens, top_k]
Tensor top_k_columns(const Tensor& scores, const ChoiceRule& rule);

// scale * scores[t, ids[t, k]], divided by the row's sum over k (plus 1e-20) where `normalise`; 0
// where an id is negative.
// scores: [tokens, experts];  ids: i32 [tokens, top_k]  ->  [tokens, top_k]
Var gate_weights(Tape& tape, const Var& scores, const Tensor& ids, bool normalise, double scale);

}  // namespace quern::ops
