// SPDX-License-Identifier: MIT
#include "quern/autograd/ops/rope.h"

#include "quern/autograd/kernels/rowwise.h"
#include "quern/autograd/ops/checks.h"

namespace quern::ops {

Var rope(Tape& tape, const Var& x, const Tensor& cos, const Tensor& sin, const Tensor& positions,
         RopePairs pairs) {
  const i64 tokens = x.dim(0), heads = x.dim(1), head_dim = x.dim(2), dim = 2 * cos.dim(1);
  expect_shape("rope", "positions", positions, {tokens});
  expect_same_type("rope", x.value(), cos);
  if (dim > head_dim) throw ShapeError({.what = "rope wider than the head"});
  for (const i32 p : positions.span<i32>()) {
    if (p < 0 || p >= cos.dim(0)) {
      throw ShapeError({.what = "rope: position beyond the table",
                        .expected = "below " + std::to_string(cos.dim(0)),
                        .actual = std::to_string(p)});
    }
  }
  const bool halves = pairs == RopePairs::halves;
  const auto run = [=]<class T>(bool inverse, const Tensor& from, const Tensor& to, bool add) {
    kernels::rope<T>({tokens, heads, head_dim, dim, positions.data<i32>(), cos.data<T>(),
                      sin.data<T>(), halves, inverse, from.data<T>(), to.data<T>(), add});
  };
  Tensor y = Tensor::like(x.value());
  for_float_type(y, [&]<class T>() { run.template operator()<T>(false, x.value(), y, false); });
  return tape.record("rope", {x}, y, [run](const Tensor& dy, Grads& d) {
    const GradTarget dx = d.into(0);
    for_float_type(
        dy, [&]<class T>() { run.template operator()<T>(true, dy, dx.tensor, dx.accumulate); });
  });
}

}  // namespace quern::ops
