// SPDX-License-Identifier: MIT
#include "quern/autograd/ops/expert_part.h"

#include "quern/autograd/kernels/experts.h"
#include "quern/autograd/kernels/gemm.h"
#include "quern/autograd/kernels/rows.h"
#include "quern/autograd/ops/internal/operand.h"
#include "quern/autograd/ops/internal/stack_runs.h"

namespace quern::ops {

ExpertPart::ExpertPart(const Tensor& x, const Tensor& weights, const Var& gate_up, const Var& down,
                       std::shared_ptr<const std::vector<i64>> offsets, const RowMap& map)
    : tokens_(x.dim(0)),
      top_k_(weights.dim(1)),
      hidden_(x.dim(1)),
      width_(down.dim(2)),
      experts_(gate_up.dim(0)),
      offsets_(std::move(offsets)),
      map_(map),
      x_(small_operand(x, gate_up.operand())),
      weights_(weights),
      gate_up_(gate_up.operand()),
      down_(down.operand()) {
  check();
  expect_same_type("expert_ffn", weights_, gate_up.value());
}

void ExpertPart::check() const {
  expect_shape("expert_ffn", "weights", weights_, {tokens_, top_k_});
  expect_shape("expert_ffn", "gate_up", gate_up_, {experts_, 2 * width_, hidden_});
  expect_shape("expert_ffn", "down", down_, {experts_, hidden_, width_});
  expect_shape("expert_ffn", "row_of_slot", map_.row_of_slot, {tokens_, top_k_});
  expect_same_type("expert_ffn", x_, gate_up_);
  expect_same_type("expert_ffn", gate_up_, down_);
  if (i64(offsets_->size()) != experts_ + 1 || offsets_->back() != rows()) {
    throw ShapeError({.what = "expert_ffn: offsets that do not cover the rows"});
  }
}

template <class T>
Tensor ExpertPart::forward_in(bool keeps_outputs, bool rows_alone) {
  if (keeps_outputs) outputs_ = new_rows(2 * width_, dtype_of<T>());
  const Tensor made = new_rows(hidden_, sum_type(dtype_of<T>()));
  kernels::experts<T>({experts_, hidden_, width_, offsets_->data(), x_.data<T>(), token_of_row(),
                       gate_up_.data<T>(), down_.data<T>(),
                       keeps_outputs ? outputs_.data<T>() : nullptr, made.data<Sum<T>>(),
                       rows_alone});
  return made;
}

// The number in [tokens, top_k] of each row's slot. Slots without a row have no gradient.
template <class T>
Tensor ExpertPart::slots(const GradTarget& dweights) const {
  const Tensor slot_of_row = Tensor::empty({rows()}, DType::i32);
  const i32* rows = map_.row_of_slot.data<i32>();
  for (i64 slot = 0; slot < tokens_ * top_k_; ++slot) {
    if (rows[slot] >= 0) {
      slot_of_row.data<i32>()[rows[slot]] = i32(slot);
    } else if (!dweights.accumulate) {
      dweights.data<Sum<T>>()[slot] = 0;
    }
  }
  return slot_of_row;
}

template <class T>
Tensor ExpertPart::backward_in(const Tensor& dy, const GradTarget& dweights, Grads& d,
                               int gate_up_input, int down_input, bool wants_rows) {
  const Tensor g = in_type(dy, dtype_of<T>());
  Tensor x;
  if (!outputs_.defined() || d.wants(gate_up_input)) x = in_type(kept_.value(), dtype_of<T>());
  Tensor inner = new_rows(width_, dtype_of<T>());
  const Tensor douts = new_rows(2 * width_, dtype_of<T>());
  const Tensor drows = wants_rows ? new_rows(hidden_, sum_type(dtype_of<T>())) : Tensor();
  kernels::experts_backward<T>(
      {experts_, hidden_, width_, offsets_->data(), x.defined() ? x.data<T>() : nullptr,
       token_of_row(), gate_up_.data<T>(), down_.data<T>(),
       outputs_.defined() ? outputs_.data<T>() : nullptr, g.data<T>(),
       slots<T>(dweights).template data<i32>(), weights_.data<Sum<T>>(), inner.data<T>(),
       douts.data<T>(), dweights.data<Sum<T>>(), dweights.accumulate,
       drows.defined() ? drows.data<Sum<T>>() : nullptr});
  outputs_ = {};  // room for what follows
  if (d.wants(down_input)) {
    const GradTarget to = d.into_stack(down_input);
    for (const StackRun& run : runs_of(to.matrices.get(), experts_)) {
      kernels::grouped_gemm_trans_a<T>(
          {run.count, offsets_->data() + run.first, hidden_, width_, g.data<T>(), inner.data<T>(),
           to.data<Sum<T>>() + run.place * hidden_ * width_, to.accumulate, token_of_row()});
    }
  }
  inner = {};
  if (d.wants(gate_up_input)) {
    const GradTarget to = d.into_stack(gate_up_input);
    for (const StackRun& run : runs_of(to.matrices.get(), experts_)) {
      kernels::grouped_gemm_trans_a<T>({run.count, offsets_->data() + run.first, 2 * width_,
                                        hidden_, douts.data<T>(), x.data<T>(),
                                        to.data<Sum<T>>() + run.place * 2 * width_ * hidden_,
                                        to.accumulate, nullptr, token_of_row()});
    }
  }
  return drows;
}

Tensor ExpertPart::forward(bool keeps_outputs, bool rows_alone) {
  return for_operand_type(gate_up_,
                          [&]<class T>() { return forward_in<T>(keeps_outputs, rows_alone); });
}

Tensor ExpertPart::backward(const Tensor& dy, const GradTarget& dweights, Grads& d,
                            int gate_up_input, int down_input, bool wants_rows) {
  return for_operand_type(gate_up_, [&]<class T>() {
    return backward_in<T>(dy, dweights, d, gate_up_input, down_input, wants_rows);
  });
}

void combine_part(const Tensor& rows, const Tensor& row_of_slot, const Tensor& weights,
                  const GradTarget& to) {
  for_float_type(rows, [&]<class T>() {
    kernels::combine_rows<T>({to.tensor.dim(0), row_of_slot.dim(1), to.tensor.dim(1),
                              rows.data<T>(), row_of_slot.data<i32>(),
                              weights.defined() ? weights.data<T>() : nullptr, to.data<T>(),
                              to.accumulate});
  });
}

}  // namespace quern::ops
