// SPDX-License-Identifier: MIT
// The output head and cross entropy in one, so that a batch's logits are never held whole.
#pragma once

#include "quern/autograd/tape.h"

namespace quern::ops {

struct CrossEntropyResult {
  Var loss;    // scalar: scale * the sum of nll
  Tensor nll;  // f64 [tokens], natural log; 0 where the label is not counted
};

inline constexpr i32 kIgnoredLabel = -100;

// nll[t] = -log softmax(hidden[t] * head^T)[labels[t]]. Labels of -100 are not counted.
// Works in chunks of tokens and forms the gradients on the way, as Liger kernels do
// (arXiv:2410.10989): nothing is computed twice.
// hidden: [tokens, width];  head: [vocab, width];  labels: i32 [tokens]. Throws DataError on a
// label outside the vocabulary.
CrossEntropyResult linear_cross_entropy(Tape& tape, const Var& hidden, const Var& head,
                                        const Tensor& labels, double scale);

}  // namespace quern::ops
