// SPDX-License-Identifier: MIT
#include "quern/autograd/ops/matmul.h"

#include "quern/autograd/kernels/gemm.h"
#include "quern/autograd/ops/internal/operand.h"
#include "quern/autograd/ops/internal/stack_runs.h"

namespace quern::ops {

Var linear(Tape& tape, const Var& x, const Var& weight) {
  const i64 tokens = x.dim(0), in = x.dim(1), out = weight.dim(0);
  const Tensor w = weight.operand(), small = small_operand(x.value(), w);
  expect_shape("linear", "weight", w, {out, in});
  expect_operands("linear", x, weight);
  Tensor y = Tensor::empty({tokens, out}, weight.dtype());
  for_operand_type(w, [&]<class T>() {
    const Tensor a = in_type(small, w.dtype());
    kernels::gemm<T>({tokens, out, in, a.data<T>(), in, false, w.data<T>(), in, true,
                      y.data<Sum<T>>(), out, false, tape.rows_alone()});
  });
  return tape.record("linear", {x, weight}, y,
                     [kept = weight.requires_grad() ? kept_operand(x, small) : Saved(), w, tokens,
                      in, out](const Tensor& dy, Grads& d) {
                       for_operand_type(w, [&]<class T>() {
                         const Tensor g = in_type(dy, w.dtype());
                         if (d.wants(0)) {
                           const GradTarget dx = d.into(0);
                           kernels::gemm<T>({tokens, in, out, g.data<T>(), out, false, w.data<T>(),
                                             in, false, dx.data<Sum<T>>(), in, dx.accumulate});
                         }
                         if (d.wants(1)) {
                           const GradTarget dw = d.into(1);
                           const Tensor a = in_type(kept.value(), w.dtype());
                           kernels::gemm<T>({out, in, tokens, g.data<T>(), out, true, a.data<T>(),
                                             in, false, dw.data<Sum<T>>(), in, dw.accumulate});
                         }
                       });
                     });
}

Var grouped_linear(Tape& tape, const Var& x, const Var& weight,
                   std::shared_ptr<const std::vector<i64>> offsets) {
  const i64 rows = x.dim(0), in = x.dim(1), groups = weight.dim(0), out = weight.dim(1);
  const Tensor w = weight.operand(), small = small_operand(x.value(), w);
  expect_shape("grouped_linear", "weight", w, {groups, out, in});
  expect_operands("grouped_linear", x, weight);
  if (i64(offsets->size()) != groups + 1 || offsets->back() != rows) {
    throw ShapeError({.what = "grouped_linear: offsets that do not cover the rows"});
  }
  Tensor y = Tensor::empty({rows, out}, weight.dtype());
  for_operand_type(w, [&]<class T>() {
    const Tensor a = in_type(small, w.dtype());
    kernels::grouped_gemm<T>({groups, offsets->data(), out, in, a.data<T>(), w.data<T>(), true,
                              y.data<Sum<T>>(), false, nullptr, tape.rows_alone()});
  });
  return tape.record(
      "grouped_linear", {x, weight}, y,
      [kept = weight.requires_grad() ? kept_operand(x, small) : Saved(), w, offsets, groups, in,
       out](const Tensor& dy, Grads& d) {
        for_operand_type(w, [&]<class T>() {
          const Tensor g = in_type(dy, w.dtype());
          if (d.wants(0)) {
            const GradTarget dx = d.into(0);
            kernels::grouped_gemm<T>({groups, offsets->data(), in, out, g.data<T>(), w.data<T>(),
                                      false, dx.data<Sum<T>>(), dx.accumulate});
          }
          if (d.wants(1)) {
            const GradTarget dw = d.into_stack(1);
            const Tensor a = in_type(kept.value(), w.dtype());
            for (const StackRun& run : runs_of(dw.matrices.get(), groups)) {
              kernels::grouped_gemm_trans_a<T>(
                  {run.count, offsets->data() + run.first, out, in, g.data<T>(), a.data<T>(),
                   dw.data<Sum<T>>() + run.place * out * in, dw.accumulate});
            }
          }
        });
      });
}

}  // namespace quern::ops
