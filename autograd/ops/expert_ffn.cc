// SPDX-License-Identifier: MIT
#include "quern/autograd/ops/expert_ffn.h"

#include "quern/autograd/kernels/gemm.h"
#include "quern/autograd/kernels/rows.h"
#include "quern/autograd/kernels/rowwise.h"
#include "quern/autograd/ops/internal/operand.h"
#include "quern/autograd/ops/internal/stack_runs.h"

namespace quern::ops {
namespace {

// What forward and backward share.
struct Experts {
  i64 tokens, top_k, hidden, width, experts;
  std::shared_ptr<const std::vector<i64>> offsets;
  RowMap map;
  Tensor x, weights, gate_up, down;  // x, gate_up and down as operands
  Saved kept;                        // x, for backward

  i64 rows() const { return map.token_of_row.numel(); }
  const i32* token_of_row() const { return map.token_of_row.data<i32>(); }
  const i32* row_of_slot() const { return map.row_of_slot.data<i32>(); }
  Tensor new_rows(i64 columns, DType dtype) const {
    return Tensor::empty({rows(), columns}, dtype);
  }
};

Experts check(const Var& x, const Var& weights, const Var& gate_up, const Var& down,
              std::shared_ptr<const std::vector<i64>> offsets, const RowMap& map) {
  const Tensor w = gate_up.operand();
  Experts e{x.dim(0),
            weights.dim(1),
            x.dim(1),
            down.dim(2),
            gate_up.dim(0),
            std::move(offsets),
            map,
            small_operand(x.value(), w),
            weights.value(),
            w,
            down.operand(),
            {}};
  expect_shape("expert_ffn", "weights", e.weights, {e.tokens, e.top_k});
  expect_shape("expert_ffn", "gate_up", e.gate_up, {e.experts, 2 * e.width, e.hidden});
  expect_shape("expert_ffn", "down", e.down, {e.experts, e.hidden, e.width});
  expect_shape("expert_ffn", "row_of_slot", map.row_of_slot, {e.tokens, e.top_k});
  expect_operands("expert_ffn", x, gate_up);
  expect_same_type("expert_ffn", e.gate_up, e.down);
  expect_same_type("expert_ffn", e.weights, gate_up.value());
  if (i64(e.offsets->size()) != e.experts + 1 || e.offsets->back() != e.rows()) {
    throw ShapeError({.what = "expert_ffn: offsets that do not cover the rows"});
  }
  return e;
}

// swiglu of gate_up's outputs as an operand of `down`; `outputs` becomes what backward keeps.
template <class T>
Tensor activate(const Experts& e, Tensor& outputs) {
  const Tensor inner = e.new_rows(e.width, dtype_of<T>());
  if constexpr (std::is_same_v<T, bf16>) {
    const Tensor kept = Tensor::empty(outputs.shape(), DType::bf16);
    kernels::swiglu<float>(
        {e.rows(), e.width, outputs.data<float>(), nullptr, inner.data<bf16>(), kept.data<bf16>()});
    outputs = kept;
  } else {
    kernels::swiglu<T>({e.rows(), e.width, outputs.data<T>(), inner.data<T>()});
  }
  return inner;
}

template <class T>
Tensor outputs_of_gate_up(const Experts& e, const Tensor& operand) {
  const Tensor x = in_type(operand, dtype_of<T>());
  const Tensor outputs = e.new_rows(2 * e.width, sum_type(dtype_of<T>()));
  kernels::grouped_gemm<T>({e.experts, e.offsets->data(), 2 * e.width, e.hidden, x.data<T>(),
                            e.gate_up.data<T>(), true, outputs.data<Sum<T>>(), false,
                            e.token_of_row()});
  return outputs;
}

// -> the outputs of gate_up, as backward needs them
template <class T>
Tensor forward(const Experts& e, const Tensor& y) {
  const DType sum = sum_type(dtype_of<T>());
  Tensor outputs = outputs_of_gate_up<T>(e, e.x);
  const Tensor inner = activate<T>(e, outputs);
  const Tensor rows = e.new_rows(e.hidden, sum);
  kernels::grouped_gemm<T>({e.experts, e.offsets->data(), e.hidden, e.width, inner.data<T>(),
                            e.down.data<T>(), true, rows.data<Sum<T>>(), false});
  kernels::combine_rows<Sum<T>>({e.tokens, e.top_k, e.hidden, rows.data<Sum<T>>(), e.row_of_slot(),
                                 e.weights.data<Sum<T>>(), y.data<Sum<T>>(), false});
  return outputs;
}

template <class T>
void backward(const Experts& e, Tensor outputs, const Tensor& dy, Grads& d) {
  const DType sum = sum_type(dtype_of<T>());
  if (!outputs.defined()) {
    outputs = outputs_of_gate_up<T>(e, e.kept.value());
    if constexpr (std::is_same_v<T, bf16>) activate<T>(e, outputs);
  }
  const Tensor g = in_type(dy, dtype_of<T>());
  Tensor dinner = e.new_rows(e.width, sum);
  kernels::grouped_gemm<T>({e.experts, e.offsets->data(), e.width, e.hidden, g.data<T>(),
                            e.down.data<T>(), false, dinner.data<Sum<T>>(), false,
                            e.token_of_row()});
  const GradTarget dweights =
      d.wants(1) ? d.into(1) : GradTarget{Tensor::empty(e.weights.shape(), sum), false};
  Tensor inner = e.new_rows(e.width, dtype_of<T>());
  const Tensor douts = e.new_rows(2 * e.width, dtype_of<T>());
  kernels::weighted_swiglu_backward<T>({e.tokens, e.top_k, e.width, e.row_of_slot(),
                                        outputs.data<T>(), e.weights.data<Sum<T>>(),
                                        dinner.data<Sum<T>>(), inner.data<T>(), douts.data<T>(),
                                        dweights.data<Sum<T>>(), dweights.accumulate});
  outputs = dinner = {};  // room for what follows
  if (d.wants(3)) {
    const GradTarget to = d.into_stack(3);
    for (const StackRun& run : runs_of(to.matrices.get(), e.experts)) {
      kernels::grouped_gemm_trans_a<T>({run.count, e.offsets->data() + run.first, e.hidden, e.width,
                                        g.data<T>(), inner.data<T>(),
                                        to.data<Sum<T>>() + run.place * e.hidden * e.width,
                                        to.accumulate, e.token_of_row()});
    }
  }
  inner = {};
  if (d.wants(2)) {
    const GradTarget to = d.into_stack(2);
    const Tensor x = in_type(e.kept.value(), dtype_of<T>());
    for (const StackRun& run : runs_of(to.matrices.get(), e.experts)) {
      kernels::grouped_gemm_trans_a<T>({run.count, e.offsets->data() + run.first, 2 * e.width,
                                        e.hidden, douts.data<T>(), x.data<T>(),
                                        to.data<Sum<T>>() + run.place * 2 * e.width * e.hidden,
                                        to.accumulate, nullptr, e.token_of_row()});
    }
  }
  if (d.wants(0)) {
    const GradTarget to = d.into(0);
    const Tensor rows = e.new_rows(e.hidden, sum);
    kernels::grouped_gemm<T>({e.experts, e.offsets->data(), e.hidden, 2 * e.width, douts.data<T>(),
                              e.gate_up.data<T>(), false, rows.data<Sum<T>>(), false});
    kernels::combine_rows<Sum<T>>({e.tokens, e.top_k, e.hidden, rows.data<Sum<T>>(),
                                   e.row_of_slot(), nullptr, to.data<Sum<T>>(), to.accumulate});
  }
}

}  // namespace

Var expert_ffn(Tape& tape, const Var& x, const Var& weights, const Var& gate_up, const Var& down,
               std::shared_ptr<const std::vector<i64>> offsets, const RowMap& map, Keep keep) {
  Experts e = check(x, weights, gate_up, down, std::move(offsets), map);
  Tensor y = Tensor::empty({e.tokens, e.hidden}, gate_up.dtype());
  Tensor outputs = for_operand_type(e.gate_up, [&]<class T>() { return forward<T>(e, y); });
  // Without outputs backward reads x again, else only the gradient of gate_up does.
  if (keep == Keep::inputs || gate_up.requires_grad()) e.kept = kept_operand(x, e.x);
  if (keep == Keep::inputs) outputs = {};
  e.x = {};
  return tape.record("expert_ffn", {x, weights, gate_up, down}, y,
                     [e = std::move(e), outputs](const Tensor& dy, Grads& d) {
                       for_operand_type(e.gate_up,
                                        [&]<class T>() { backward<T>(e, outputs, dy, d); });
                     });
}

}  // namespace quern::ops
