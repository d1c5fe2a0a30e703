// SPDX-License-Identifier: MIT
#include "quern/autograd/ops/layout.h"

#include <algorithm>

#include "quern/autograd/kernels/parallel.h"
#include "quern/autograd/ops/checks.h"

namespace quern::ops {

Var reshape(Tape& tape, const Var& x, const Shape& shape) {
  return tape.record("reshape", {x}, x.value().reshape(shape),
                     [old = x.shape()](const Tensor& dy, Grads& d) { d.pass(0, dy.reshape(old)); });
}

Var slice_columns(Tape& tape, const Var& x, i64 begin, i64 end) {
  const i64 rows = x.dim(0), columns = x.dim(1), width = end - begin;
  if (begin < 0 || begin > end || end > columns) {
    throw ShapeError({.what = "slice_columns beyond the matrix", .actual = x.value().str()});
  }
  Tensor y = Tensor::empty({rows, width}, x.dtype());
  for_float_type(y, [&]<class T>() {
    const T* from = x.value().data<T>();
    T* to = y.data<T>();
    parallel_chunks(rows, 256, [&](i64 first, i64 last) {
      for (i64 r = first; r < last; ++r) {
        for (i64 c = 0; c < width; ++c) to[r * width + c] = from[r * columns + begin + c];
      }
    });
  });
  return tape.record("slice_columns", {x}, y,
                     [rows, columns, begin, end, width](const Tensor& dy, Grads& d) {
                       for_float_type(dy, [&]<class T>() {
                         const GradTarget dx = d.into(0);
                         const T* from = dy.data<T>();
                         T* to = dx.data<T>();
                         parallel_chunks(rows, 256, [&](i64 first, i64 last) {
                           for (i64 r = first; r < last; ++r) {
                             T* out = to + r * columns;
                             if (!dx.accumulate) {
                               for (i64 c = 0; c < begin; ++c) out[c] = 0;
                               for (i64 c = end; c < columns; ++c) out[c] = 0;
                               for (i64 c = 0; c < width; ++c) out[begin + c] = from[r * width + c];
                             } else {
                               for (i64 c = 0; c < width; ++c)
                                 out[begin + c] += from[r * width + c];
                             }
                           }
                         });
                       });
                     });
}

Var add_to_columns(Tape& tape, const Var& y, const Var& x, i64 begin, double scale) {
  const i64 rows = y.dim(0), columns = y.dim(1), width = x.dim(1);
  expect_same_type("add_to_columns", y.value(), x.value());
  if (begin < 0 || begin + width > columns || x.dim(0) != rows) {
    throw ShapeError({.what = "add_to_columns beyond the matrix", .actual = x.value().str()});
  }
  Tensor sum = Tensor::empty({rows, columns}, y.dtype());
  for_float_type(sum, [&]<class T>() {
    const T *base = y.value().data<T>(), *more = x.value().data<T>();
    T* to = sum.data<T>();
    parallel_chunks(rows, 256, [&](i64 first, i64 last) {
      std::copy(base + first * columns, base + last * columns, to + first * columns);
      for (i64 r = first; r < last; ++r) {
        T* out = to + r * columns + begin;
        for (i64 c = 0; c < width; ++c) out[c] += T(scale) * more[r * width + c];
      }
    });
  });
  return tape.record("add_to_columns", {y, x}, sum,
                     [rows, columns, width, begin, scale](const Tensor& dy, Grads& d) {
                       if (d.wants(0)) d.pass(0, dy);
                       if (!d.wants(1)) return;
                       for_float_type(dy, [&]<class T>() {
                         const GradTarget dx = d.into(1);
                         const T* from = dy.data<T>();
                         T* to = dx.data<T>();
                         parallel_chunks(rows, 256, [&](i64 first, i64 last) {
                           for (i64 r = first; r < last; ++r) {
                             const T* in = from + r * columns + begin;
                             T* out = to + r * width;
                             for (i64 c = 0; c < width; ++c) {
                               out[c] = (dx.accumulate ? out[c] : T(0)) + T(scale) * in[c];
                             }
                           }
                         });
                       });
                     });
}

}  // namespace quern::ops
