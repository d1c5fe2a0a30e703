// SPDX-License-Identifier: MIT
#include "bench/cases.h"
#include "quern/autograd/kernels/gemm.h"

namespace quern::bench {
namespace {

// A sum of products and the largest error that f32 may make in it, whatever the order.
struct ExactSum {
  double value = 0, size = 0;
  i64 terms = 0;
  template <class T>
  void add(T a, T b) {
    const double x = double(float(a)), y = double(float(b));
    value += x * y;
    size += std::abs(x * y);
    ++terms;
  }
  double error(double computed) const {
    return std::abs(computed - value) / (size * 6e-8 * double(terms + 1) + 1e-30);
  }
};

template <class T>
Tensor operand(const Shape& shape, const char* purpose) {
  return random_tensor(shape, purpose).cast(dtype_of<T>());
}

template <class T>
std::string prefix() {
  return dtype_of<T>() == DType::bf16 ? "bf16/" : "";
}

template <class T>
Case gemm_case(const std::string& name, i64 m, i64 n, i64 k, bool trans_a, bool trans_b) {
  const Tensor a = operand<T>({m, k}, "a"), b = operand<T>({k, n}, "b");
  const Tensor c = Tensor::empty({m, n}, DType::f32);
  const kernels::Gemm<T> g{m,
                           n,
                           k,
                           a.data<T>(),
                           trans_a ? m : k,
                           trans_a,
                           b.data<T>(),
                           trans_b ? k : n,
                           trans_b,
                           c.data<float>(),
                           n,
                           false};
  const auto error = [=] {
    double worst = 0;
    for (int s = 0; s < kSamples; ++s) {
      const i64 i = sample(2 * s, m), j = sample(2 * s + 1, n);
      ExactSum sum;
      for (i64 x = 0; x < k; ++x) {
        sum.add(g.a[trans_a ? x * m + i : i * k + x], g.b[trans_b ? j * k + x : x * n + j]);
      }
      worst = std::max(worst, sum.error(c.data<float>()[i * n + j]));
    }
    return worst;
  };
  return {prefix<T>() + "gemm/" + name, 2.0 * double(m * n * k),
          double(sizeof(T)) * double(m * k + k * n) + 4.0 * double(m * n),
          [g, a, b, c] { kernels::gemm(g); }, error};
}

std::vector<i64> even_offsets() {
  std::vector<i64> offsets;
  for (i64 e = 0; e <= kExperts; ++e) offsets.push_back(e * (kRows / kExperts));
  return offsets;
}

// Rows of every expert times its matrix: [rows, k] to [rows, n].
template <class T>
Case experts_case(const std::string& name, i64 n, i64 k, bool trans_b) {
  const Tensor a = operand<T>({kRows, k}, "a"), b = operand<T>({kExperts, n, k}, "b");
  const Tensor c = Tensor::empty({kRows, n}, DType::f32);
  const auto error = [=] {
    double worst = 0;
    for (int s = 0; s < kSamples; ++s) {
      const i64 i = sample(2 * s, kRows), j = sample(2 * s + 1, n);
      const T* w = b.data<T>() + i / (kRows / kExperts) * n * k;
      ExactSum sum;
      for (i64 x = 0; x < k; ++x)
        sum.add(a.data<T>()[i * k + x], w[trans_b ? j * k + x : x * n + j]);
      worst = std::max(worst, sum.error(c.data<float>()[i * n + j]));
    }
    return worst;
  };
  return {prefix<T>() + "experts/" + name, 2.0 * double(kRows * n * k),
          double(sizeof(T)) * double(kRows * k + kExperts * n * k) + 4.0 * double(kRows * n),
          [=, offsets = even_offsets()] {
            kernels::grouped_gemm<T>({kExperts, offsets.data(), n, k, a.data<T>(), b.data<T>(),
                                      trans_b, c.data<float>(), false});
          },
          error};
}

// The gradient of every expert's matrix: [rows of it, m]^T [rows of it, n].
template <class T>
Case expert_weights_case(const std::string& name, i64 m, i64 n) {
  const Tensor a = operand<T>({kRows, m}, "a"), b = operand<T>({kRows, n}, "b");
  const Tensor c = Tensor::empty({kExperts, m, n}, DType::f32);
  const auto error = [=] {
    double worst = 0;
    for (int s = 0; s < kSamples; ++s) {
      const i64 e = sample(3 * s, kExperts), i = sample(3 * s + 1, m), j = sample(3 * s + 2, n);
      ExactSum sum;
      for (i64 r = e * (kRows / kExperts); r < (e + 1) * (kRows / kExperts); ++r) {
        sum.add(a.data<T>()[r * m + i], b.data<T>()[r * n + j]);
      }
      worst = std::max(worst, sum.error(c.data<float>()[(e * m + i) * n + j]));
    }
    return worst;
  };
  return {prefix<T>() + "experts/" + name, 2.0 * double(kRows * m * n),
          double(sizeof(T)) * double(kRows * (m + n)) + 4.0 * double(kExperts * m * n),
          [=, offsets = even_offsets()] {
            kernels::grouped_gemm_trans_a<T>(
                {kExperts, offsets.data(), m, n, a.data<T>(), b.data<T>(), c.data<float>(), false});
          },
          error};
}

template <class T>
void add_products(std::vector<Case>& cases) {
  const auto linear = [&](const std::string& name, i64 tokens, i64 in, i64 out) {
    cases.push_back(gemm_case<T>(name + "/forward", tokens, out, in, false, true));
    cases.push_back(gemm_case<T>(name + "/dx", tokens, in, out, false, false));
    cases.push_back(gemm_case<T>(name + "/dw", out, in, tokens, true, false));
  };
  cases.push_back(gemm_case<T>("2048x512x2048", 2048, 2048, 512, false, true));
  linear("q_proj_512_768", kTokens, kHidden, 768);
  linear("kv_a_proj_512_160", kTokens, kHidden, 160);
  linear("kv_b_proj_128_1024", kTokens, 128, 1024);
  linear("o_proj_512_512", kTokens, kHidden, kHidden);
  linear("gate_512_64", kTokens, kHidden, kExperts);
  linear("shared_up_512_768", kTokens, kHidden, 768);
  linear("shared_down_384_512", kTokens, 384, kHidden);
  linear("head_512_16384", kHeadChunk, kHidden, kVocab);
  cases.push_back(experts_case<T>("up/forward", 2 * kWidth, kHidden, true));
  cases.push_back(experts_case<T>("up/dx", kHidden, 2 * kWidth, false));
  cases.push_back(expert_weights_case<T>("up/dw", 2 * kWidth, kHidden));
  cases.push_back(experts_case<T>("down/forward", kHidden, kWidth, true));
  cases.push_back(experts_case<T>("down/dx", kWidth, kHidden, false));
  cases.push_back(expert_weights_case<T>("down/dw", kHidden, kWidth));
}

}  // namespace

std::vector<Case> product_cases() {
  std::vector<Case> cases;
  add_products<float>(cases);
  add_products<bf16>(cases);
  return cases;
}

}  // namespace quern::bench
