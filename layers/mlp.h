// SPDX-License-Identifier: MIT
// The SwiGLU feed-forward network: dense layers, and the shared experts of a MoE layer.
#pragma once

#include "quern/layers/linear.h"

namespace quern {

// Throws ConfigError where one of two matrices that are stored as one is frozen.
void refuse_a_half(const Parameter& gate, const Parameter& up);

// down(silu(gate(x)) * up(x))   (arXiv:2002.05202, eq. 6).   x: [tokens, hidden]
// gate and up are one stacked matrix, so that one product computes both; they are visited apart.
struct Mlp {
  Mlp() = default;
  Mlp(const std::string& name, i64 hidden, i64 width, ParamKind kind, DType dtype,
      bool fp8 = false);

  Var forward(Tape& tape, const Var& x) const;
  void visit(const ParamVisitor& visitor);
  // After `trainable` of the slices has changed: so has the stack's. Throws ConfigError where
  // gate_proj and up_proj, one matrix, differ.
  void hold_gradients();

  std::string name;
  DType dtype = DType::f32;
  mutable Parameter gate_up;     // [2 * width, hidden], gate first
  Parameter gate_proj, up_proj;  // slices of gate_up
  Linear down_proj;
};

}  // namespace quern
