// SPDX-License-Identifier: MIT
#include "quern/autograd/ops/matmul.h"

#include "quern/autograd/kernels/gemm.h"
#include "quern/autograd/ops/checks.h"

namespace quern::ops {

Var linear(Tape& tape, const Var& x, const Var& w) {
  const i64 tokens = x.dim(0), in = x.dim(1), out = w.dim(0);
  expect_shape("linear", "weight", w.value(), {out, in});
  expect_same_type("linear", x.value(), w.value());
  Tensor y = Tensor::empty({tokens, out}, x.dtype());
  for_float_type(y, [&]<class T>() {
    kernels::gemm<T>({tokens, out, in, x.value().data<T>(), in, false, w.value().data<T>(), in,
                      true, y.data<T>(), out, false});
  });
  return tape.record("linear", {x, w}, y,
                     [x = x.value(), w = w.value(), tokens, in, out](const Tensor& dy, Grads& d) {
                       for_float_type(dy, [&]<class T>() {
                         if (d.wants(0)) {
                           const GradTarget dx = d.into(0);
                           kernels::gemm<T>({tokens, in, out, dy.data<T>(), out, false, w.data<T>(),
                                             in, false, dx.data<T>(), in, dx.accumulate});
                         }
                         if (d.wants(1)) {
                           const GradTarget dw = d.into(1);
                           kernels::gemm<T>({out, in, tokens, dy.data<T>(), out, true, x.data<T>(),
                                             in, false, dw.data<T>(), in, dw.accumulate});
                         }
                       });
                     });
}

Var grouped_linear(Tape& tape, const Var& x, const Var& w,
                   std::shared_ptr<const std::vector<i64>> offsets) {
  const i64 rows = x.dim(0), in = x.dim(1), groups = w.dim(0), out = w.dim(1);
  expect_shape("grouped_linear", "weight", w.value(), {groups, out, in});
  expect_same_type("grouped_linear", x.value(), w.value());
  if (i64(offsets->size()) != groups + 1 || offsets->back() != rows) {
    throw ShapeError({.what = "grouped_linear: offsets that do not cover the rows"});
  }
  Tensor y = Tensor::empty({rows, out}, x.dtype());
  for_float_type(y, [&]<class T>() {
    kernels::grouped_gemm<T>({groups, offsets->data(), out, in, x.value().data<T>(),
                              w.value().data<T>(), true, y.data<T>(), false});
  });
  return tape.record(
      "grouped_linear", {x, w}, y,
      [x = x.value(), w = w.value(), offsets, groups, in, out](const Tensor& dy, Grads& d) {
        for_float_type(dy, [&]<class T>() {
          if (d.wants(0)) {
            const GradTarget dx = d.into(0);
            kernels::grouped_gemm<T>({groups, offsets->data(), in, out, dy.data<T>(), w.data<T>(),
                                      false, dx.data<T>(), dx.accumulate});
          }
          if (d.wants(1)) {
            const GradTarget dw = d.into(1);
            kernels::grouped_gemm_trans_a<T>({groups, offsets->data(), out, in, dy.data<T>(),
                                              x.data<T>(), dw.data<T>(), dw.accumulate});
          }
        });
      });
}

}  // namespace quern::ops
