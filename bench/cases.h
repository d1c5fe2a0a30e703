// SPDX-License-Identifier: MIT
// What quern_bench_kernels measures: each kernel at the sizes it has in the `small` model, 4,096
// tokens at a time, with a check against a plain loop in double, at sampled places.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "quern/autograd/random.h"
#include "quern/autograd/tensor.h"

namespace quern::bench {

inline constexpr i64 kTokens = 4096, kHidden = 512, kExperts = 64, kTopK = 6, kWidth = 192;
inline constexpr i64 kRows = kTokens * kTopK, kVocab = 16384, kHeadChunk = 1024;
inline constexpr int kSamples = 200;  // places compared

// What is timed, what it costs, and the largest error found, as a share of what rounding allows.
struct Case {
  std::string name;
  double flops, bytes;  // of one run; bytes: operands read and written once
  std::function<void()> run;
  std::function<double()> error;
};

std::vector<Case> product_cases();    // plain and grouped, of f32 and of bf16
std::vector<Case> attention_cases();  // forward and backward
std::vector<Case> row_cases();        // norms, activations, losses
std::vector<Case> movement_cases();   // gather, combine, rotate

inline Tensor random_tensor(const Shape& shape, const char* purpose) {
  const Tensor t = Tensor::empty(shape, DType::f32);
  fill_normal(t, Random(1, purpose), 1);
  return t;
}

inline Tensor row_numbers(i64 n, i64 step, i64 modulus) {
  const Tensor t = Tensor::empty({n}, DType::i32);
  for (i64 i = 0; i < n; ++i) t.data<i32>()[i] = i32(i * step % modulus);
  return t;
}

inline i64 sample(int i, i64 n) {
  return i64(Random(2, "sample").below(std::uint64_t(i), std::uint64_t(n)));
}

inline double relative(double computed, double expected) {
  return std::abs(computed - expected) / (2e-5 * (1 + std::abs(expected)));
}

}  // namespace quern::bench
