// SPDX-License-Identifier: MIT
// Sends token rows to the experts that were chosen for them and combines what comes back. On one
// rank both are copies; layers call the same two verbs wherever experts live.
#pragma once

#include <memory>
#include <vector>

#include "quern/autograd/ops/rows.h"

namespace quern {

struct Dispatched {
  Var rows;  // [copies, width], sorted by expert, then by token
  std::shared_ptr<const std::vector<i64>> offsets;  // experts + 1: where each expert's rows begin
  ops::RowMap map;
};

class TokenDispatcher {
 public:
  explicit TokenDispatcher(i64 experts) : experts_(experts) {}

  // x: [tokens, width];  expert_ids: i32 [tokens, top_k]. A negative id is no copy; there is at
  // least one copy.
  Dispatched dispatch(Tape& tape, const Var& x, const Tensor& expert_ids) const;

  // y[t] = sum over k, in slot order, of weights[t, k] * the row of (t, k).
  // rows: [copies, width];  weights: [tokens, top_k]  ->  [tokens, width]
  Var combine(Tape& tape, const Var& rows, const Var& weights, const Dispatched& sent) const;

 private:
  i64 experts_;
};

}  // namespace quern
