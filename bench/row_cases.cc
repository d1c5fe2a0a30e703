// SPDX-License-Identifier: MIT
#include "bench/cases.h"
#include "quern/autograd/kernels/rows.h"
#include "quern/autograd/kernels/rowwise.h"

namespace quern::bench {
namespace {

// Kernels that memory bounds: y = kernel(x), compared element by element at sampled places.
Case stream_case(const std::string& name, const Tensor& y, double bytes, std::function<void()> run,
                 const std::function<double(i64)>& expected) {
  const auto error = [=] {
    double worst = 0;
    for (int s = 0; s < kSamples; ++s) {
      const i64 i = sample(s, y.numel());
      worst = std::max(worst, relative(y.data<float>()[i], expected(i)));
    }
    return worst;
  };
  return {name, 0, bytes, std::move(run), error};
}

double silu(double x) { return x / (1 + std::exp(-x)); }

}  // namespace

std::vector<Case> row_cases() {
  std::vector<Case> cases;
  const Tensor x = random_tensor({kTokens, kHidden}, "x"), gain = random_tensor({kHidden}, "gain");
  const Tensor y = Tensor::like(x), rstd = Tensor::empty({kTokens}, DType::f32);
  const float *px = x.data<float>(), *pg = gain.data<float>();
  const double size = 4.0 * double(x.numel());
  cases.push_back(stream_case(
      "rms_norm", y, 2 * size,
      [=] {
        kernels::rms_norm<float>({kTokens, kHidden, x.data<float>(), gain.data<float>(), 1e-6,
                                  y.data<float>(), rstd.data<float>()});
      },
      [=, x = x, gain = gain](i64 i) {
        const float* row = px + i / kHidden * kHidden;
        double squares = 0;
        for (i64 j = 0; j < kHidden; ++j) squares += double(row[j]) * row[j];
        return pg[i % kHidden] * px[i] / std::sqrt(squares / kHidden + 1e-6);
      }));

  const Tensor both = random_tensor({kRows, 2 * kWidth}, "both");
  const Tensor inner = Tensor::empty({kRows, kWidth}, DType::f32);
  cases.push_back(stream_case(
      "swiglu", inner, 4.0 * double(3 * inner.numel()),
      [=] {
        kernels::swiglu<float>({kRows, kWidth, both.data<float>(), inner.data<float>()});
      },
      [=](i64 i) {
        const float* row = both.data<float>() + i / kWidth * 2 * kWidth;
        return silu(row[i % kWidth]) * row[kWidth + i % kWidth];
      }));
  const Tensor dinner = random_tensor({kRows, kWidth}, "dinner"), dboth = Tensor::like(both);
  cases.push_back(stream_case(
      "swiglu_backward", dboth, 4.0 * double(5 * inner.numel()),
      [=] {
        kernels::swiglu_backward<float>(
            {kRows, kWidth, both.data<float>(), dinner.data<float>(), dboth.data<float>(), false});
      },
      [=](i64 i) {
        const i64 column = i % (2 * kWidth), j = column % kWidth, row = i / (2 * kWidth);
        const double gate = both.data<float>()[row * 2 * kWidth + j];
        const double up = both.data<float>()[row * 2 * kWidth + kWidth + j];
        const double dy = dinner.data<float>()[row * kWidth + j], s = 1 / (1 + std::exp(-gate));
        return column < kWidth ? dy * up * s * (1 + gate * (1 - s)) : dy * silu(gate);
      }));

  const Tensor logits = random_tensor({kTokens, kExperts}, "logits"), scores = Tensor::like(logits);
  cases.push_back(stream_case(
      "softmax", scores, 8.0 * double(scores.numel()),
      [=] {
        kernels::softmax<float>({kTokens, kExperts, logits.data<float>(), scores.data<float>()});
      },
      [=](i64 i) {
        const float* row = logits.data<float>() + i / kExperts * kExperts;
        double sum = 0;
        for (i64 j = 0; j < kExperts; ++j) sum += std::exp(double(row[j]));
        return std::exp(double(row[i % kExperts])) / sum;
      }));

  const Tensor z = random_tensor({kHeadChunk, kVocab}, "z"), first = z.clone();
  const Tensor labels = row_numbers(kHeadChunk, 7, kVocab);
  const Tensor loss = Tensor::empty({kHeadChunk}, DType::f64);
  cases.push_back(stream_case(  // with the copy that gives it the same logits again
      "cross_entropy+copy", z, 16.0 * double(z.numel()),
      [=] {
        z.copy_from(first);
        kernels::cross_entropy<float>({kHeadChunk, kVocab, z.data<float>(), labels.data<i32>(),
                                       loss.data<double>(), true, 1});
      },
      [=](i64 i) {
        const float* row = first.data<float>() + i / kVocab * kVocab;
        double sum = 0;
        for (i64 j = 0; j < kVocab; ++j) sum += std::exp(double(row[j]));
        return std::exp(double(row[i % kVocab])) / sum -
               (labels.data<i32>()[i / kVocab] == i % kVocab ? 1 : 0);
      }));
  return cases;
}

std::vector<Case> movement_cases() {
  std::vector<Case> cases;
  const Tensor x = random_tensor({kTokens, kHidden}, "x"),
               many = random_tensor({kRows, kHidden}, "many");
  const Tensor gathered = Tensor::like(many), y = Tensor::like(x);
  const Tensor token = row_numbers(kRows, 5, kTokens), slot = row_numbers(kRows, 7919, kRows);
  const Tensor weight = random_tensor({kTokens, kTopK}, "weight");
  const double size = 4.0 * double(many.numel());
  cases.push_back(stream_case(
      "gather_rows", gathered, 2 * size,
      [=] {
        kernels::gather_rows<float>(
            {kRows, kHidden, x.data<float>(), token.data<i32>(), gathered.data<float>()});
      },
      [=](i64 i) {
        return double(x.data<float>()[token.data<i32>()[i / kHidden] * kHidden + i % kHidden]);
      }));
  cases.push_back(stream_case(
      "combine_rows", y, size + size / kTopK,
      [=] {
        kernels::combine_rows<float>({kTokens, kTopK, kHidden, many.data<float>(), slot.data<i32>(),
                                      weight.data<float>(), y.data<float>(), false});
      },
      [=](i64 i) {
        double sum = 0;
        for (i64 k = i / kHidden * kTopK; k < (i / kHidden + 1) * kTopK; ++k) {
          sum += double(weight.data<float>()[k]) *
                 many.data<float>()[slot.data<i32>()[k] * kHidden + i % kHidden];
        }
        return sum;
      }));

  constexpr i64 heads = 8, head_dim = 96, dim = 32;
  const Tensor q = random_tensor({kTokens, heads, head_dim}, "q"), turned = Tensor::like(q);
  const Tensor cos = random_tensor({256, dim / 2}, "cos"),
               sin = random_tensor({256, dim / 2}, "sin");
  const Tensor position = row_numbers(kTokens, 1, 256);
  cases.push_back(stream_case(
      "rope", turned, 8.0 * double(q.numel()),
      [=] {
        kernels::rope<float>({kTokens, heads, head_dim, dim, position.data<i32>(),
                              cos.data<float>(), sin.data<float>(), false, false, q.data<float>(),
                              turned.data<float>(), false});
      },
      [=](i64 i) {
        const i64 column = i % head_dim - (head_dim - dim), t = i / (heads * head_dim);
        const float* p = q.data<float>();
        if (column < 0) return double(p[i]);
        const i64 angle = position.data<i32>()[t] * (dim / 2) + column / 2;
        const double c = cos.data<float>()[angle], s = sin.data<float>()[angle];
        return column % 2 == 0 ? p[i] * c - p[i + 1] * s : p[i] * c + p[i - 1] * s;
      }));
  return cases;
}

}  // namespace quern::bench
