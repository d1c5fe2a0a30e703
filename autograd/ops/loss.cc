// SPDX-License-Identifier: MIT
#include "quern/autograd/ops/loss.h"

#include <algorithm>

#include "quern/autograd/kernels/gemm.h"
#include "quern/autograd/kernels/rowwise.h"
#include "quern/autograd/ops/internal/accumulate.h"
#include "quern/autograd/ops/internal/head_gradients.h"
#include "quern/autograd/ops/internal/operand.h"

namespace quern::ops {
namespace {

// Tokens whose logits are held at once: enough for the head's weight gradient to be written seldom.
constexpr i64 kChunk = 1024;

void check_labels(const Tensor& labels, i64 vocab) {
  for (const i32 label : labels.span<i32>()) {
    if (label != kIgnoredLabel && (label < 0 || label >= vocab)) {
      throw DataError({.what = "label outside the vocabulary",
                       .expected = "0 to " + std::to_string(vocab - 1) + ", or -100",
                       .actual = std::to_string(label)});
    }
  }
}

}  // namespace

CrossEntropyResult linear_cross_entropy(Tape& tape, const Var& hidden, const Var& head,
                                        const Tensor& labels, double scale) {
  const i64 tokens = hidden.dim(0), width = hidden.dim(1), vocab = head.dim(0);
  expect_shape("linear_cross_entropy", "head", head.value(), {vocab, width});
  expect_shape("linear_cross_entropy", "labels", labels, {tokens});
  expect_same_type("linear_cross_entropy", hidden.value(), head.value());
  check_labels(labels, vocab);
  const bool gradient = tape.recording() && (hidden.requires_grad() || head.requires_grad());
  const Tensor w = head.operand(), x = in_type(hidden.value(), w.dtype());
  const Shape chunk{std::min(tokens, kChunk), vocab};
  const Tensor nll = Tensor::empty({tokens}, DType::f64);
  const Tensor logits = Tensor::empty(chunk, hidden.dtype());
  const Tensor dlogits =
      gradient && w.dtype() == DType::bf16 ? Tensor::empty(chunk, w.dtype()) : logits;
  const Tensor dhidden =
      gradient && hidden.requires_grad() ? Tensor::like(hidden.value()) : Tensor();
  const Tensor dhead = gradient && head.requires_grad() ? Tensor::like(head.value()) : Tensor();
  Tensor loss = Tensor::empty({}, hidden.dtype());
  for_operand_type(w, [&]<class T>() {
    for (i64 begin = 0; begin < tokens; begin += kChunk) {
      const i64 n = std::min(kChunk, tokens - begin);
      const T* rows = x.data<T>() + begin * width;
      auto* z = logits.data<Sum<T>>();
      kernels::gemm<T>(
          {n, vocab, width, rows, width, false, w.data<T>(), width, true, z, vocab, false});
      kernels::CrossEntropy<Sum<T>> rows_of_loss{
          n, vocab, z, labels.data<i32>() + begin, nll.data<double>() + begin, gradient, scale};
      if constexpr (std::is_same_v<T, bf16>) {
        if (gradient) rows_of_loss.gradient_bf16 = dlogits.data<bf16>();
      }
      kernels::cross_entropy(rows_of_loss);
      if (!gradient) continue;
      add_head_gradients<T>(begin, n, x, w, dlogits.data<T>(), dhidden, dhead);
    }
  });
  double total = 0;
  for (const double v : nll.span<double>()) total += v;
  loss.fill(scale * total);
  Var result = tape.record("linear_cross_entropy", {hidden, head}, loss,
                           [dhidden, dhead](const Tensor& dy, Grads& d) {
                             if (d.wants(0)) add_scaled(dhidden, dy.item(), d.into(0));
                             if (d.wants(1)) add_scaled(dhead, dy.item(), d.into(1));
                           });
  return {result, nll};
}

}  // namespace quern::ops
