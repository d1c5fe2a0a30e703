// SPDX-License-Identifier: MIT
#include "quern/layers/fp8.h"

#include "quern/autograd/ops/layout.h"
#include "quern/autograd/ops/low_bits.h"
#include "quern/autograd/ops/matmul.h"

namespace quern {
namespace {

constexpr i64 kBlock = 128;

}  // namespace

Var fp8_activations(Tape& tape, const Var& x) {
  return ops::straight_through(tape, x, ops::through_e4m3(x.value(), 1, kBlock));
}

Var fp8_weights(Tape& tape, const Var& w, i64 rows) {
  const i64 columns = w.dim(w.shape().rank() - 1);
  const Tensor matrices = w.value().reshape({w.value().numel() / (rows * columns), rows, columns});
  return ops::straight_through(tape, w,
                               ops::through_e4m3(matrices, kBlock, kBlock).reshape(w.shape()));
}

Var fp8_linear(Tape& tape, const Var& x, const Var& w, const Shape& matrix) {
  const Var y = ops::linear(tape, fp8_activations(tape, x), fp8_weights(tape, w, matrix[0]));
  return ops::e4m3_gradient(tape, y);
}

Var fp8_grouped_linear(Tape& tape, const Var& x, const Var& w, const Shape& matrix,
                       std::shared_ptr<const std::vector<i64>> offsets) {
  const Var y = ops::grouped_linear(tape, fp8_activations(tape, x), fp8_weights(tape, w, matrix[0]),
                                    std::move(offsets));
  return ops::e4m3_gradient(tape, y);
}

}  // namespace quern
