// SPDX-License-Identifier: MIT
// The two layers that are one parameter and one operation.
#pragma once

#include "quern/autograd/ops/matmul.h"
#include "quern/autograd/ops/norm.h"
#include "quern/layers/fp8.h"
#include "quern/layers/low_rank.h"

namespace quern {

// y = x W^T, without bias.   x: [tokens, in]  ->  [tokens, out];  weight: [out, in]
struct Linear {
  Linear() = default;
  Linear(const std::string& name, i64 in, i64 out, ParamKind kind, DType dtype, bool fp8 = false)
      : weight(name + ".weight", {out, in}, kind, dtype), fp8(fp8) {}

  Var forward(Tape& tape, const Var& x) const {
    const Var w = tape.parameter(weight);
    const Var y = fp8 ? fp8_linear(tape, x, w, w.shape()) : ops::linear(tape, x, w);
    return with_update(tape, y, x, weight);
  }
  void visit(const ParamVisitor& visitor) { visitor(weight); }

  mutable Parameter weight;  // a tape adds to its gradient
  bool fp8 = false;          // see fp8.h
};

// y = g * x / sqrt(mean(x^2) + eps)   (RMSNorm, arXiv:1910.07467, eq. 4); gains start at 1.
struct RmsNorm {
  RmsNorm() = default;
  // bf16: of f32 numbers, with a result rounded to bf16, as products read it.
  RmsNorm(const std::string& name, i64 width, double eps, DType dtype)
      : weight(name + ".weight", {width}, ParamKind::norm, sum_type(dtype)), eps(eps), out(dtype) {
    weight.value.fill(1);
  }

  Var forward(Tape& tape, const Var& x) const {
    return ops::rms_norm(tape, x, tape.parameter(weight), eps, out);
  }
  void visit(const ParamVisitor& visitor) { visitor(weight); }

  mutable Parameter weight;
  double eps = 1e-6;
  DType out = DType::f32;
};

}  // namespace quern
