// SPDX-License-Identifier: MIT
#include "quern/autograd/ops/norm.h"

#include "quern/autograd/kernels/parallel.h"
#include "quern/autograd/kernels/rowwise.h"
#include "quern/autograd/ops/checks.h"

namespace quern::ops {
namespace {

constexpr i64 kRowChunk = 64;

}  // namespace

Var rms_norm(Tape& tape, const Var& x, const Var& weight, double eps, DType out) {
  const i64 rows = x.dim(0), width = x.dim(1);
  expect_shape("rms_norm", "weight", weight.value(), {width});
  expect_same_type("rms_norm", x.value(), weight.value());
  const Tensor rstd = Tensor::empty({rows}, x.dtype());
  const auto compute = [x = x.value(), w = weight.value(), rstd, rows, width, eps, out] {
    const Tensor y = Tensor::empty(x.shape(), out);
    for_float_type(x, [&]<class T>() {
      const bool rounded = out == DType::bf16;
      kernels::rms_norm<T>({rows, width, x.data<T>(), w.data<T>(), eps,
                            rounded ? nullptr : y.data<T>(), rstd.data<T>(),
                            rounded ? y.data<bf16>() : nullptr});
    });
    return y;
  };
  Var y = tape.record(
      "rms_norm", {x, weight}, compute(),
      [x = x.value(), w = weight.value(), rstd, rows, width](const Tensor& dy, Grads& d) {
        for_float_type(dy, [&]<class T>() {
          constexpr i64 kChunk = kernels::kRmsNormChunk;
          const Tensor partial = Tensor::empty({(rows + kChunk - 1) / kChunk, width}, dy.dtype());
          const GradTarget dx = d.wants(0) ? d.into(0) : GradTarget{};
          const GradTarget dw = d.wants(1) ? d.into(1) : GradTarget{};
          kernels::rms_norm_backward<T>(
              {rows, width, x.data<T>(), w.data<T>(), rstd.data<T>(), dy.data<T>(),
               dx.tensor.defined() ? dx.data<T>() : nullptr, dx.accumulate,
               dw.tensor.defined() ? dw.data<T>() : nullptr, dw.accumulate, partial.data<T>()});
        });
      });
  if (y.requires_grad()) y.set_again(compute);
  return y;
}

Var softmax(Tape& tape, const Var& x) {
  const i64 rows = x.dim(0), width = x.dim(1);
  Tensor y = Tensor::like(x.value());
  for_float_type(y, [&]<class T>() {
    kernels::softmax<T>({rows, width, x.value().data<T>(), y.data<T>()});
  });
  return tape.record("softmax", {x}, y, [y, rows, width](const Tensor& dy, Grads& d) {
    for_float_type(dy, [&]<class T>() {
      const GradTarget dx = d.into(0);
      kernels::softmax_backward<T>(
          {rows, width, y.data<T>(), dy.data<T>(), dx.data<T>(), dx.accumulate});
    });
  });
}

Var share_of_row(Tape& tape, const Var& x) {
  const i64 rows = x.dim(0), width = x.dim(1);
  Tensor y = Tensor::like(x.value()), sums = Tensor::empty({rows}, x.dtype());
  for_float_type(y, [&]<class T>() {
    parallel_chunks(rows, kRowChunk, [&](i64 begin, i64 end) {
      for (i64 r = begin; r < end; ++r) {
        const T* from = x.value().data<T>() + r * width;
        T sum = T(1e-20);
        for (i64 i = 0; i < width; ++i) sum += from[i];
        sums.data<T>()[r] = sum;
        for (i64 i = 0; i < width; ++i) y.data<T>()[r * width + i] = from[i] / sum;
      }
    });
  });
  return tape.record("share_of_row", {x}, y, [y, sums, rows, width](const Tensor& dy, Grads& d) {
    const GradTarget dx = d.into(0);
    for_float_type(dy, [&]<class T>() {
      parallel_chunks(rows, kRowChunk, [&](i64 begin, i64 end) {
        for (i64 r = begin; r < end; ++r) {
          const T *g = dy.data<T>() + r * width, *s = y.data<T>() + r * width;
          T* to = dx.data<T>() + r * width;
          T inner = 0;
          for (i64 i = 0; i < width; ++i) inner += g[i] * s[i];
          for (i64 i = 0; i < width; ++i)
            to[i] = (dx.accumulate ? to[i] : T(0)) + (g[i] - inner) / sums.data<T>()[r];
        }
      });
    });
  });
}

}  // namespace quern::ops
