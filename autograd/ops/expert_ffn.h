// SPDX-License-Identifier: MIT
// The routed experts of a layer, from tokens to tokens, in one operation.
#pragma once

#include <memory>
#include <vector>

#include "quern/autograd/ops/rows.h"

namespace quern::ops {

// What expert_ffn() has in memory until backward: the outputs of gate_up, or x alone, from which
// they are computed again, the same bits.
enum class Keep { outputs, inputs };

// y[t] = sum over slots k, in order, of weights[t, k] * down_e * swiglu(gate_up_e * x[t]), with e
// the expert of (t, k).
// x: [tokens, hidden];  weights: [tokens, top_k];  gate_up: [experts, 2 * width, hidden], gate
// first;  down: [experts, hidden, width]  ->  [tokens, hidden]
// Rows are sorted by expert: those of e are [offsets[e], offsets[e + 1]). A slot without a row (-1)
// adds nothing, and its weight has no gradient. Copies of tokens exist
// only in the panels of products, and of the rows only the outputs of gate_up are kept: weighing
// what goes into `down` instead of what comes out leaves nothing else for backward.
Var expert_ffn(Tape& tape, const Var& x, const Var& weights, const Var& gate_up, const Var& down,
               std::shared_ptr<const std::vector<i64>> offsets, const RowMap& map,
               Keep keep = Keep::outputs);

}  // namespace quern::ops
