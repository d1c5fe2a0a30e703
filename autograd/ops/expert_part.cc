// SPDX-License-Identifier: MIT
#include "quern/autograd/ops/expert_part.h"

#include "quern/autograd/kernels/gemm.h"
#include "quern/autograd/kernels/rows.h"
#include "quern/autograd/kernels/rowwise.h"
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
Tensor ExpertPart::outputs_of_gate_up(const Tensor& operand, bool rows_alone) const {
  const Tensor x = in_type(operand, dtype_of<T>());
  const Tensor outputs = new_rows(2 * width_, sum_type(dtype_of<T>()));
  kernels::grouped_gemm<T>({experts_, offsets_->data(), 2 * width_, hidden_, x.data<T>(),
                            gate_up_.data<T>(), true, outputs.data<Sum<T>>(), false, token_of_row(),
                            rows_alone});
  return outputs;
}

// swiglu of gate_up's outputs as an operand of `down`; the outputs become what backward keeps.
template <class T>
Tensor ExpertPart::activate() {
  const Tensor inner = new_rows(width_, dtype_of<T>());
  if constexpr (std::is_same_v<T, bf16>) {
    const Tensor kept = Tensor::empty(outputs_.shape(), DType::bf16);
    kernels::swiglu<float>(
        {rows(), width_, outputs_.data<float>(), nullptr, inner.data<bf16>(), kept.data<bf16>()});
    outputs_ = kept;
  } else {
    kernels::swiglu<T>({rows(), width_, outputs_.data<T>(), inner.data<T>()});
  }
  return inner;
}

template <class T>
Tensor ExpertPart::forward_in(bool rows_alone) {
  outputs_ = outputs_of_gate_up<T>(x_, rows_alone);
  const Tensor inner = activate<T>();
  const Tensor made = new_rows(hidden_, sum_type(dtype_of<T>()));
  kernels::grouped_gemm<T>({experts_, offsets_->data(), hidden_, width_, inner.data<T>(),
                            down_.data<T>(), true, made.data<Sum<T>>(), false, nullptr,
                            rows_alone});
  return made;
}

template <class T>
Tensor ExpertPart::backward_in(const Tensor& dy, const GradTarget& dweights, Grads& d,
                               int gate_up_input, int down_input, bool wants_rows) {
  const DType sum = sum_type(dtype_of<T>());
  if (!outputs_.defined()) {
    outputs_ = outputs_of_gate_up<T>(kept_.value());
    if constexpr (std::is_same_v<T, bf16>) activate<T>();
  }
  const Tensor g = in_type(dy, dtype_of<T>());
  Tensor dinner = new_rows(width_, sum);
  kernels::grouped_gemm<T>({experts_, offsets_->data(), width_, hidden_, g.data<T>(),
                            down_.data<T>(), false, dinner.data<Sum<T>>(), false, token_of_row()});
  Tensor inner = new_rows(width_, dtype_of<T>());
  const Tensor douts = new_rows(2 * width_, dtype_of<T>());
  kernels::weighted_swiglu_backward<T>({tokens_, top_k_, width_, map_.row_of_slot.data<i32>(),
                                        outputs_.data<T>(), weights_.data<Sum<T>>(),
                                        dinner.data<Sum<T>>(), inner.data<T>(), douts.data<T>(),
                                        dweights.data<Sum<T>>(), dweights.accumulate});
  outputs_ = dinner = {};  // room for what follows
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
    const Tensor x = in_type(kept_.value(), dtype_of<T>());
    for (const StackRun& run : runs_of(to.matrices.get(), experts_)) {
      kernels::grouped_gemm_trans_a<T>({run.count, offsets_->data() + run.first, 2 * width_,
                                        hidden_, douts.data<T>(), x.data<T>(),
                                        to.data<Sum<T>>() + run.place * 2 * width_ * hidden_,
                                        to.accumulate, nullptr, token_of_row()});
    }
  }
  if (!wants_rows) return {};
  const Tensor drows = new_rows(hidden_, sum);
  kernels::grouped_gemm<T>({experts_, offsets_->data(), hidden_, 2 * width_, douts.data<T>(),
                            gate_up_.data<T>(), false, drows.data<Sum<T>>(), false});
  return drows;
}

Tensor ExpertPart::forward(bool rows_alone) {
  return for_operand_type(gate_up_, [&]<class T>() { return forward_in<T>(rows_alone); });
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
