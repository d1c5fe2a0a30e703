// SPDX-License-Identifier: MIT
// Operands of products. The weight decides: where it has an image in bf16, everything that is
// multiplied is rounded to bf16, and sums stay f32.
#pragma once

#include "quern/autograd/ops/checks.h"
#include "quern/autograd/tape.h"

namespace quern::ops {

inline Tensor in_type(const Tensor& x, DType dtype) {
  return x.dtype() == dtype ? x : x.cast(dtype);
}

// x as an operand beside `weight`, in the smaller of their types.
inline Tensor small_operand(const Tensor& x, const Tensor& weight) {
  return weight.dtype() == DType::bf16 ? in_type(x, DType::bf16) : x;
}

// What backward keeps of it.
inline Saved kept_operand(const Var& x, const Tensor& small) {
  return x.again() ? *x.again() : Saved(small);
}

inline void expect_operands(const char* op, const Var& x, const Var& w) {
  if (sum_type(x.dtype()) != w.dtype()) {
    throw ShapeError({.key = op,
                      .what = "different types",
                      .actual = x.value().str() + " and " + w.value().str()});
  }
}

}  // namespace quern::ops
