// SPDX-License-Identifier: MIT
#include <memory>
#include <utility>

#include "bench/cases.h"
#include "quern/autograd/kernels/experts.h"
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

// A layer's experts whole, in one kernel. What it rounds on the way may move each term of a result
// by so much of its size:
template <class T>
constexpr double kRounding = dtype_of<T>() == DType::bf16 ? 4.0 / 512 : 2e-5;

template <class T>
struct LayerOfExperts {
  Tensor x = operand<T>({kTokens, kHidden}, "x"), dy = operand<T>({kTokens, kHidden}, "dy");
  Tensor gate_up = weights({kExperts, 2 * kWidth, kHidden}, "gate_up");
  Tensor down = weights({kExperts, kHidden, kWidth}, "down");
  Tensor token_of_row = row_numbers(kRows, 7, kTokens), slot_of_row = row_numbers(kRows, 1, kRows);
  Tensor weight = random_tensor({kRows}, "weight");
  Tensor outputs = Tensor::empty({kRows, 2 * kWidth}, dtype_of<T>());
  Tensor y = Tensor::empty({kRows, kHidden}, DType::f32), drows = Tensor::like(y);
  Tensor inner = Tensor::empty({kRows, kWidth}, dtype_of<T>()), douts = Tensor::like(outputs);
  Tensor dweight = Tensor::like(weight);
  std::vector<i64> offsets = even_offsets();

  static Tensor weights(const Shape& shape, const char* purpose) {
    const Tensor w = random_tensor(shape, purpose);
    for (float& v : w.span<float>()) v *= 0.05f;
    return w.cast(dtype_of<T>());
  }
  void forward() const {
    kernels::experts<T>({kExperts, kHidden, kWidth, offsets.data(), x.data<T>(),
                         token_of_row.data<i32>(), gate_up.data<T>(), down.data<T>(),
                         outputs.data<T>(), y.data<float>(), false});
  }
  void backward() const {
    kernels::experts_backward<T>({kExperts, kHidden, kWidth, offsets.data(), x.data<T>(),
                                  token_of_row.data<i32>(), gate_up.data<T>(), down.data<T>(),
                                  outputs.data<T>(), dy.data<T>(), slot_of_row.data<i32>(),
                                  weight.data<float>(), inner.data<T>(), douts.data<T>(),
                                  dweight.data<float>(), false, drows.data<float>()});
  }

  static const T* row(const Tensor& t, i64 r, i64 width) { return t.data<T>() + r * width; }
  static double dot(const T* a, const T* b, i64 n, i64 step_b = 1) {
    double sum = 0;
    for (i64 i = 0; i < n; ++i) sum += double(float(a[i])) * double(float(b[i * step_b]));
    return sum;
  }
  // gate and up of a row at a column of `inner`
  std::pair<double, double> outputs_at(i64 r, i64 column) const {
    const T* w = gate_up.data<T>() + r / (kRows / kExperts) * 2 * kWidth * kHidden;
    const T* from = row(x, token_of_row.data<i32>()[r], kHidden);
    return {dot(from, w + column * kHidden, kHidden),
            dot(from, w + (kWidth + column) * kHidden, kHidden)};
  }
  double forward_error() const {
    double worst = 0;
    for (int s = 0; s < kSamples; ++s) {
      const i64 r = sample(2 * s, kRows), j = sample(2 * s + 1, kHidden);
      const T* w = down.data<T>() + (r / (kRows / kExperts) * kHidden + j) * kWidth;
      double sum = 0, size = 0;
      for (i64 i = 0; i < kWidth; ++i) {
        const auto [gate, up] = outputs_at(r, i);
        const double term = gate * up / (1 + std::exp(-gate)) * double(float(w[i]));
        sum += term, size += std::abs(term);
      }
      worst = std::max(
          worst, std::abs(y.data<float>()[r * kHidden + j] - sum) / (kRounding<T> * (size + 1e-3)));
    }
    return worst;
  }
  double backward_error() const {
    double worst = 0;
    const auto see = [&](double computed, double expected, double size) {
      worst = std::max(worst, std::abs(computed - expected) / (kRounding<T> * (size + 1e-3)));
    };
    for (int s = 0; s < kSamples; ++s) {
      const i64 r = sample(3 * s, kRows), c = sample(3 * s + 1, kWidth), e = r / (kRows / kExperts);
      const auto [gate, up] = outputs_at(r, c);
      const double sigmoid = 1 / (1 + std::exp(-gate)), w = weight.data<float>()[r];
      const double d = dot(row(dy, token_of_row.data<i32>()[r], kHidden),
                           down.data<T>() + e * kHidden * kWidth + c, kHidden, kWidth);
      const double slope = sigmoid * (1 + gate * (1 - sigmoid));
      see(float(row(inner, r, kWidth)[c]), w * gate * sigmoid * up, 1 + std::abs(gate * up * w));
      see(float(row(douts, r, 2 * kWidth)[c]), w * d * up * slope, 1 + std::abs(w * d * up));
      see(float(row(douts, r, 2 * kWidth)[kWidth + c]), w * d * gate * sigmoid,
          1 + std::abs(w * d * gate));
      ExactSum sum;
      const i64 h = sample(3 * s + 2, kHidden);
      for (i64 i = 0; i < 2 * kWidth; ++i) {
        sum.add(row(douts, r, 2 * kWidth)[i],
                gate_up.data<T>()[(e * 2 * kWidth + i) * kHidden + h]);
      }
      worst = std::max(worst, sum.error(drows.data<float>()[r * kHidden + h]));
    }
    return worst;
  }
};

template <class T>
void add_layer_of_experts(std::vector<Case>& cases) {
  const auto layer = std::make_shared<LayerOfExperts<T>>();
  layer->forward();  // what backward reads
  const double flops = 6.0 * double(kRows * kHidden * kWidth);
  const double matrices = double(sizeof(T)) * 3.0 * double(kExperts * kHidden * kWidth);
  const double rows =
      double(sizeof(T)) * double(kRows * 2 * kWidth) + 4.0 * double(kRows * kHidden);
  cases.push_back({prefix<T>() + "experts/whole/forward", flops, matrices + rows,
                   [layer] { layer->forward(); }, [layer] { return layer->forward_error(); }});
  cases.push_back({prefix<T>() + "experts/whole/backward_of_rows", flops, matrices + 2 * rows,
                   [layer] { layer->backward(); }, [layer] { return layer->backward_error(); }});
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
  add_layer_of_experts<T>(cases);
}

}  // namespace

std::vector<Case> product_cases() {
  std::vector<Case> cases;
  add_products<float>(cases);
  add_products<bf16>(cases);
  return cases;
}

}  // namespace quern::bench
