// SPDX-License-Identifier: MIT
// What some experts of a layer make of some tokens, forward and backward, unrecorded: the middle of
// expert_ffn(), and of what spreads it over ranks.
#pragma once

#include <memory>
#include <vector>

#include "quern/autograd/ops/rows.h"

namespace quern::ops {

// Shapes as in expert_ffn(), whose tokens, experts and rows may be a part of those of a layer.
class ExpertPart {
 public:
  // x: [tokens, hidden], of the type of the matrices or of their operands. Throws ShapeError.
  ExpertPart(const Tensor& x, const Tensor& weights, const Var& gate_up, const Var& down,
             std::shared_ptr<const std::vector<i64>> offsets, const RowMap& map);

  // down_e * swiglu(gate_up_e * x[token]) of every row  ->  [rows, hidden]
  // keeps_outputs: those of gate_up are kept for backward, which else computes them again.
  // rows_alone: as Tape has it.
  Tensor forward(bool keeps_outputs, bool rows_alone = false);
  // x, as an operand; until it is said how it is kept for backward, which reads it where outputs
  // are not kept or a gradient of gate_up is wanted.
  const Tensor& x() const { return x_; }
  void keep_x(Saved kept) {
    x_ = {};
    kept_ = std::move(kept);
  }

  // dy: [tokens, hidden], the gradient of the weighted sums. Those of the matrices go to the inputs
  // of these numbers, and that of the weights to `dweights`. Once.
  // -> [rows, hidden], that of x[token] by way of each row; nothing unless `wants_rows`
  Tensor backward(const Tensor& dy, const GradTarget& dweights, Grads& d, int gate_up_input,
                  int down_input, bool wants_rows);

 private:
  i64 rows() const { return map_.token_of_row.numel(); }
  const i32* token_of_row() const { return map_.token_of_row.data<i32>(); }
  Tensor new_rows(i64 columns, DType dtype) const {
    return Tensor::empty({rows(), columns}, dtype);
  }
  void check() const;
  template <class T>
  Tensor forward_in(bool keeps_outputs, bool rows_alone);
  template <class T>
  Tensor slots(const GradTarget& dweights) const;
  template <class T>
  Tensor backward_in(const Tensor& dy, const GradTarget& dweights, Grads& d, int gate_up_input,
                     int down_input, bool wants_rows);

  i64 tokens_, top_k_, hidden_, width_, experts_;
  std::shared_ptr<const std::vector<i64>> offsets_;
  RowMap map_;
  Tensor x_, weights_, gate_up_, down_;  // x, gate_up and down as operands
  Saved kept_;                           // x, for backward
  Tensor outputs_;                       // of gate_up, as operands, where they are kept
};

// to[t] = sum over slots k, in order, of weights[t, k] * rows[row_of_slot[t, k]]; weights that hold
// nothing count as 1.
void combine_part(const Tensor& rows, const Tensor& row_of_slot, const Tensor& weights,
                  const GradTarget& to);

}  // namespace quern::ops
