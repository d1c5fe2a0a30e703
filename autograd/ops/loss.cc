// SPDX-License-Identifier: MIT
#include "quern/autograd/ops/loss.h"

#include <algorithm>

#include "quern/autograd/kernels/gemm.h"
#include "quern/autograd/kernels/parallel.h"
#include "quern/autograd/kernels/rowwise.h"
#include "quern/autograd/ops/checks.h"

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

// gradient += or = factor * stored
void add_scaled(const Tensor& stored, double factor, const GradTarget& target) {
  for_float_type(stored, [&]<class T>() {
    const T* from = stored.data<T>();
    T* to = target.data<T>();
    parallel_chunks(stored.numel(), i64{1} << 15, [&](i64 begin, i64 end) {
      for (i64 i = begin; i < end; ++i) {
        to[i] = (target.accumulate ? to[i] : T(0)) + T(factor) * from[i];
      }
    });
  });
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
  const DType dtype = hidden.dtype();
  const Tensor nll = Tensor::empty({tokens}, DType::f64);
  const Tensor logits = Tensor::empty({std::min(tokens, kChunk), vocab}, dtype);
  const Tensor dhidden = gradient ? Tensor::like(hidden.value()) : Tensor();
  const Tensor dhead = gradient ? Tensor::like(head.value()) : Tensor();
  Tensor loss = Tensor::empty({}, dtype);
  for_float_type(loss, [&]<class T>() {
    const T* w = head.value().data<T>();
    for (i64 begin = 0; begin < tokens; begin += kChunk) {
      const i64 n = std::min(kChunk, tokens - begin);
      const T* x = hidden.value().data<T>() + begin * width;
      T* z = logits.data<T>();
      kernels::gemm<T>({n, vocab, width, x, width, false, w, width, true, z, vocab, false});
      kernels::cross_entropy<T>(
          {n, vocab, z, labels.data<i32>() + begin, nll.data<double>() + begin, gradient, scale});
      if (!gradient) continue;
      kernels::gemm<T>({n, width, vocab, z, vocab, false, w, width, false,
                        dhidden.data<T>() + begin * width, width, false});
      kernels::gemm<T>(
          {vocab, width, n, z, vocab, true, x, width, false, dhead.data<T>(), width, begin > 0});
    }
    double total = 0;
    for (const double v : nll.span<double>()) total += v;
    *loss.data<T>() = T(scale * total);
  });
  Var result = tape.record("linear_cross_entropy", {hidden, head}, loss,
                           [dhidden, dhead](const Tensor& dy, Grads& d) {
                             if (d.wants(0)) add_scaled(dhidden, dy.item(), d.into(0));
                             if (d.wants(1)) add_scaled(dhead, dy.item(), d.into(1));
                           });
  return {result, nll};
}

}  // namespace quern::ops
