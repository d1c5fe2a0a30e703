// SPDX-License-Identifier: MIT
// Products with weights, which are stored [out, in] as in Hugging Face state dicts.
#pragma once

#include <memory>
#include <vector>

#include "quern/autograd/tape.h"

namespace quern::ops {

// x * w^T.   x: [tokens, in];  w: [out, in]  ->  [tokens, out]
Var linear(Tape& tape, const Var& x, const Var& w);

// Rows in groups, each with a matrix of its own: y[rows of g] = x[rows of g] * w[g]^T.
// x: [rows, in];  w: [groups, out, in];  offsets: groups + 1 row numbers, rising from 0 to rows.
Var grouped_linear(Tape& tape, const Var& x, const Var& w,
                   std::shared_ptr<const std::vector<i64>> offsets);

}  // namespace quern::ops
