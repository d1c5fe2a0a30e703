// SPDX-License-Identifier: MIT
#include "quern/autograd/ops/distillation.h"

#include <algorithm>
#include <cmath>

#include "quern/autograd/kernels/gemm.h"
#include "quern/autograd/kernels/parallel.h"
#include "quern/autograd/ops/internal/accumulate.h"
#include "quern/autograd/ops/internal/head_gradients.h"
#include "quern/autograd/ops/internal/operand.h"
#include "quern/autograd/ops/loss.h"

namespace quern::ops {
namespace {

constexpr i64 kChunk = 1024;  // tokens whose logits are held at once

// The softmax of one row of logits / T.
template <class T>
struct Softmax {
  Softmax(const T* z, i64 n, double temperature) : z(z), factor(T(1 / temperature)) {
    largest = *std::max_element(z, z + n);
    double sum = 0;
    for (i64 i = 0; i < n; ++i) sum += double(std::exp((z[i] - largest) * factor));
    log_sum = T(std::log(sum));
  }
  T log_p(i64 i) const { return (z[i] - largest) * factor - log_sum; }

  const T* z;
  T factor, largest = 0, log_sum = 0;
};

// kl[row] = T^2 KL(theirs || ours), and dz = scale * T * (q - p); 0 where nothing is counted.
template <class T, class D>
void distil_rows(i64 rows, i64 vocab, const T* ours, const T* theirs, const i32* labels,
                 double temperature, double scale, double* kl, D* dz) {
  parallel_chunks(rows, 4, [&](i64 begin, i64 end) {
    for (i64 r = begin; r < end; ++r) {
      kl[r] = 0;
      D* d = dz + r * vocab;
      if (labels[r] == kIgnoredLabel) {
        std::fill(d, d + vocab, D(0));
        continue;
      }
      const Softmax<T> q(ours + r * vocab, vocab, temperature);
      const Softmax<T> p(theirs + r * vocab, vocab, temperature);
      double sum = 0;
      for (i64 i = 0; i < vocab; ++i) {
        const T log_p = p.log_p(i), log_q = q.log_p(i), p_i = std::exp(log_p);
        sum += double(p_i) * double(log_p - log_q);
        d[i] = D(T(scale * temperature) * (std::exp(log_q) - p_i));
      }
      kl[r] = temperature * temperature * sum;
    }
  });
}

}  // namespace

Var linear_distillation(Tape& tape, const Var& hidden, const Var& head,
                        const TeacherOutput& teacher, const Tensor& labels, double temperature,
                        double scale) {
  const i64 tokens = hidden.dim(0), width = hidden.dim(1), vocab = head.dim(0);
  const i64 their_width = teacher.hidden.dim(1);
  const Tensor w = head.operand(), x = in_type(hidden.value(), w.dtype());
  expect_shape("linear_distillation", "head", head.value(), {vocab, width});
  expect_shape("linear_distillation", "labels", labels, {tokens});
  expect_shape("linear_distillation", "teacher's hidden", teacher.hidden, {tokens, their_width});
  expect_shape("linear_distillation", "teacher's head", teacher.head, {vocab, their_width});
  expect_same_type("linear_distillation", w, teacher.head);
  const Tensor their_x = in_type(teacher.hidden, w.dtype());
  const Shape chunk{std::min(tokens, kChunk), vocab};
  const Tensor ours = Tensor::empty(chunk, hidden.dtype()), theirs = Tensor::like(ours);
  const Tensor dlogits = Tensor::empty(chunk, w.dtype());
  const Tensor dhidden = hidden.requires_grad() ? Tensor::like(hidden.value()) : Tensor();
  const Tensor dhead = head.requires_grad() ? Tensor::like(head.value()) : Tensor();
  const Tensor kl = Tensor::empty({tokens}, DType::f64);
  for_operand_type(w, [&]<class T>() {
    for (i64 begin = 0; begin < tokens; begin += kChunk) {
      const i64 n = std::min(kChunk, tokens - begin);
      const T* rows = x.data<T>() + begin * width;
      kernels::gemm<T>({n, vocab, width, rows, width, false, w.data<T>(), width, true,
                        ours.data<Sum<T>>(), vocab, false});
      kernels::gemm<T>({n, vocab, their_width, their_x.data<T>() + begin * their_width, their_width,
                        false, teacher.head.data<T>(), their_width, true, theirs.data<Sum<T>>(),
                        vocab, false});
      T* dz = dlogits.data<T>();
      distil_rows(n, vocab, ours.data<Sum<T>>(), theirs.data<Sum<T>>(), labels.data<i32>() + begin,
                  temperature, scale, kl.data<double>() + begin, dz);
      add_head_gradients<T>(begin, n, x, w, dz, dhidden, dhead);
    }
  });
  double total = 0;
  for (const double v : kl.span<double>()) total += v;
  Tensor loss = Tensor::full({}, hidden.dtype(), scale * total);
  return tape.record("linear_distillation", {hidden, head}, loss,
                     [dhidden, dhead](const Tensor& dy, Grads& d) {
                       if (d.wants(0)) add_scaled(dhidden, dy.item(), d.into(0));
                       if (d.wants(1)) add_scaled(dhead, dy.item(), d.into(1));
                     });
}

}  // namespace quern::ops
