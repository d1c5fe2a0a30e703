// SPDX-License-Identifier: MIT
// The `quern_bench_kernels` program: each kernel at the sizes it has in the `small` model, 4,096
// tokens at a time. A kernel is first compared with a plain loop in double, at sampled places.
#include <benchmark/benchmark.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "quern/autograd/kernels/attention.h"
#include "quern/autograd/kernels/cpu.h"
#include "quern/autograd/kernels/gemm.h"
#include "quern/autograd/kernels/parallel.h"
#include "quern/autograd/kernels/rows.h"
#include "quern/autograd/kernels/rowwise.h"
#include "quern/autograd/random.h"
#include "quern/recipes/probe.h"

namespace quern::bench {
namespace {

constexpr i64 kTokens = 4096, kHidden = 512, kExperts = 64, kTopK = 6, kWidth = 192;
constexpr i64 kRows = kTokens * kTopK, kVocab = 16384, kHeadChunk = 1024;
constexpr int kSamples = 200;  // places compared

// What is timed, what it costs, and the largest error found, as a share of what rounding allows.
struct Case {
  std::string name;
  double flops, bytes;  // of one run; bytes: operands read and written once
  std::function<void()> run;
  std::function<double()> error;
};

Tensor random_tensor(const Shape& shape, const char* purpose) {
  const Tensor t = Tensor::empty(shape, DType::f32);
  fill_normal(t, Random(1, purpose), 1);
  return t;
}

Tensor row_numbers(i64 n, i64 step, i64 modulus) {
  const Tensor t = Tensor::empty({n}, DType::i32);
  for (i64 i = 0; i < n; ++i) t.data<i32>()[i] = i32(i * step % modulus);
  return t;
}

i64 sample(int i, i64 n) {
  return i64(Random(2, "sample").below(std::uint64_t(i), std::uint64_t(n)));
}

// A sum of products and the largest error that f32 may make in it, whatever the order.
struct Sum {
  double value = 0, size = 0;
  i64 terms = 0;
  void add(double x, double y) {
    value += x * y;
    size += std::abs(x * y);
    ++terms;
  }
  double error(double computed) const {
    return std::abs(computed - value) / (size * 6e-8 * double(terms + 1) + 1e-30);
  }
};

double relative(double computed, double expected) {
  return std::abs(computed - expected) / (2e-5 * (1 + std::abs(expected)));
}

Case gemm_case(const std::string& name, i64 m, i64 n, i64 k, bool trans_a, bool trans_b) {
  const Tensor a = random_tensor({m, k}, "a"), b = random_tensor({k, n}, "b");
  const Tensor c = Tensor::empty({m, n}, DType::f32);
  const kernels::Gemm<float> g{m,
                               n,
                               k,
                               a.data<float>(),
                               trans_a ? m : k,
                               trans_a,
                               b.data<float>(),
                               trans_b ? k : n,
                               trans_b,
                               c.data<float>(),
                               n,
                               false};
  const auto error = [=] {
    double worst = 0;
    for (int s = 0; s < kSamples; ++s) {
      const i64 i = sample(2 * s, m), j = sample(2 * s + 1, n);
      Sum sum;
      for (i64 x = 0; x < k; ++x) {
        sum.add(g.a[trans_a ? x * m + i : i * k + x], g.b[trans_b ? j * k + x : x * n + j]);
      }
      worst = std::max(worst, sum.error(c.data<float>()[i * n + j]));
    }
    return worst;
  };
  return {"gemm/" + name, 2.0 * double(m * n * k), 4.0 * double(m * k + k * n + m * n),
          [g, a, b, c] { kernels::gemm(g); }, error};
}

std::vector<i64> even_offsets() {
  std::vector<i64> offsets;
  for (i64 e = 0; e <= kExperts; ++e) offsets.push_back(e * (kRows / kExperts));
  return offsets;
}

// Rows of every expert times its matrix: [rows, k] to [rows, n].
Case experts_case(const std::string& name, i64 n, i64 k, bool trans_b) {
  const Tensor a = random_tensor({kRows, k}, "a"), b = random_tensor({kExperts, n, k}, "b");
  const Tensor c = Tensor::empty({kRows, n}, DType::f32);
  const auto error = [=] {
    double worst = 0;
    for (int s = 0; s < kSamples; ++s) {
      const i64 i = sample(2 * s, kRows), j = sample(2 * s + 1, n);
      const float* w = b.data<float>() + i / (kRows / kExperts) * n * k;
      Sum sum;
      for (i64 x = 0; x < k; ++x)
        sum.add(a.data<float>()[i * k + x], w[trans_b ? j * k + x : x * n + j]);
      worst = std::max(worst, sum.error(c.data<float>()[i * n + j]));
    }
    return worst;
  };
  return {"experts/" + name, 2.0 * double(kRows * n * k),
          4.0 * double(kRows * (n + k) + kExperts * n * k),
          [=, offsets = even_offsets()] {
            kernels::grouped_gemm<float>({kExperts, offsets.data(), n, k, a.data<float>(),
                                          b.data<float>(), trans_b, c.data<float>(), false});
          },
          error};
}

// The gradient of every expert's matrix: [rows of it, m]^T [rows of it, n].
Case expert_weights_case(const std::string& name, i64 m, i64 n) {
  const Tensor a = random_tensor({kRows, m}, "a"), b = random_tensor({kRows, n}, "b");
  const Tensor c = Tensor::empty({kExperts, m, n}, DType::f32);
  const auto error = [=] {
    double worst = 0;
    for (int s = 0; s < kSamples; ++s) {
      const i64 e = sample(3 * s, kExperts), i = sample(3 * s + 1, m), j = sample(3 * s + 2, n);
      Sum sum;
      for (i64 r = e * (kRows / kExperts); r < (e + 1) * (kRows / kExperts); ++r) {
        sum.add(a.data<float>()[r * m + i], b.data<float>()[r * n + j]);
      }
      worst = std::max(worst, sum.error(c.data<float>()[(e * m + i) * n + j]));
    }
    return worst;
  };
  return {"experts/" + name, 2.0 * double(kRows * m * n),
          4.0 * double(kRows * (m + n) + kExperts * m * n),
          [=, offsets = even_offsets()] {
            kernels::grouped_gemm_trans_a<float>({kExperts, offsets.data(), m, n, a.data<float>(),
                                                  b.data<float>(), c.data<float>(), false});
          },
          error};
}

// The backward of attention is compared with itself in double, which gradient checks cover.
std::vector<Case> attention_cases() {
  constexpr i64 batch = 16, seq = 256, heads = 8, nope = 64, rope = 32, value = 64;
  const auto parts = [=]<class T>(T, const std::vector<Tensor>& t) {
    constexpr i64 head_step = nope + value, token_step = heads * head_step;
    return kernels::Attention<T>{.batch = batch,
                                 .seq = seq,
                                 .heads = heads,
                                 .kv_heads = heads,
                                 .nope = nope,
                                 .rope = rope,
                                 .value = value,
                                 .scale = 1 / std::sqrt(96.0),
                                 .q = t[0].data<T>(),
                                 .k = {t[1].data<T>(), token_step, head_step},
                                 .v = {t[1].data<T>() + nope, token_step, head_step},
                                 .k_rope = t[2].data<T>(),
                                 .first_key = nullptr,
                                 .out = t[3].data<T>(),
                                 .log_sum_exp = t[4].data<T>()};
  };
  std::vector<Tensor> single, twice;  // q, kv, k_rope, out, log_sum_exp, dout, gradients, scratch
  const std::vector<Shape> shapes{{kTokens, heads, nope + rope},
                                  {kTokens, heads, nope + value},
                                  {kTokens, rope},
                                  {kTokens, heads, value},
                                  {heads, kTokens},
                                  {kTokens, heads, value},
                                  {kTokens, heads, nope + rope},
                                  {kTokens, heads, nope + value},
                                  {kTokens, rope},
                                  {heads, kTokens, rope}};
  for (const Shape& shape : shapes) {
    single.push_back(random_tensor(shape, ("attention" + std::to_string(single.size())).c_str()));
    twice.push_back(single.back().cast(DType::f64));
  }
  const auto backward = [=]<class T>(T zero, const std::vector<Tensor>& t) {
    kernels::attention_backward<T>({parts(zero, t), t[5].data<T>(), t[6].data<T>(), false,
                                    t[7].data<T>(), false, t[7].data<T>() + nope, false,
                                    t[8].data<T>(), false, t[9].data<T>()});
  };
  const auto forward = [=] { kernels::attention(parts(0.0f, single)); };
  const auto forward_error = [=] {  // one row of one head at a time
    double worst = 0;
    for (int s = 0; s < kSamples; ++s) {
      const i64 token = sample(2 * s, kTokens), h = sample(2 * s + 1, heads);
      const float* q = single[0].data<float>() + (token * heads + h) * (nope + rope);
      double sum = 0, expected = 0;
      for (i64 j = token / seq * seq; j <= token; ++j) {
        const float* kv = single[1].data<float>() + (j * heads + h) * (nope + value);
        double score = 0;
        for (i64 d = 0; d < nope; ++d) score += double(q[d]) * kv[d];
        for (i64 d = 0; d < rope; ++d) {
          score += double(q[nope + d]) * single[2].data<float>()[j * rope + d];
        }
        const double p = std::exp(score / std::sqrt(96.0));
        sum += p;
        expected += p * kv[nope + s % value];
      }
      worst =
          std::max(worst, relative(single[3].data<float>()[(token * heads + h) * value + s % value],
                                   expected / sum));
    }
    return worst;
  };
  const auto backward_error = [=] {
    kernels::attention(parts(0.0, twice));
    backward(0.0, twice);
    double worst = 0;
    for (const size_t t : {6, 7, 8}) {
      for (i64 i = 0; i < single[t].numel(); ++i) {
        worst = std::max(worst, relative(single[t].data<float>()[i], twice[t].data<double>()[i]));
      }
    }
    return worst;
  };
  const double pairs = double(batch * heads) * double(seq * (seq + 1) / 2);
  return {{"attention/forward", 2 * pairs * (nope + rope + value), 0, forward, forward_error},
          {"attention/backward", 2 * pairs * (3 * (nope + rope) + 2 * value), 0,
           [=] { backward(0.0f, single); }, backward_error}};
}

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

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  const auto linear = [&](const std::string& name, i64 tokens, i64 in, i64 out) {
    cases.push_back(gemm_case(name + "/forward", tokens, out, in, false, true));
    cases.push_back(gemm_case(name + "/dx", tokens, in, out, false, false));
    cases.push_back(gemm_case(name + "/dw", out, in, tokens, true, false));
  };
  cases.push_back(gemm_case("2048x512x2048", 2048, 2048, 512, false, true));
  linear("q_proj_512_768", kTokens, kHidden, 768);
  linear("kv_a_proj_512_160", kTokens, kHidden, 160);
  linear("kv_b_proj_128_1024", kTokens, 128, 1024);
  linear("o_proj_512_512", kTokens, kHidden, kHidden);
  linear("gate_512_64", kTokens, kHidden, kExperts);
  linear("shared_up_512_768", kTokens, kHidden, 768);
  linear("shared_down_384_512", kTokens, 384, kHidden);
  linear("head_512_16384", kHeadChunk, kHidden, kVocab);
  cases.push_back(experts_case("up/forward", 2 * kWidth, kHidden, true));
  cases.push_back(experts_case("up/dx", kHidden, 2 * kWidth, false));
  cases.push_back(expert_weights_case("up/dw", 2 * kWidth, kHidden));
  cases.push_back(experts_case("down/forward", kHidden, kWidth, true));
  cases.push_back(experts_case("down/dx", kWidth, kHidden, false));
  cases.push_back(expert_weights_case("down/dw", kHidden, kWidth));
  for (const auto& more : {attention_cases(), row_cases(), movement_cases()}) {
    cases.insert(cases.end(), more.begin(), more.end());
  }
  return cases;
}

void time_case(benchmark::State& state, const Case& c, double peak) {
  c.run();
  if (const double error = c.error(); !(error <= 1)) {
    state.SkipWithError(("wrong: " + std::to_string(error) + " of the tolerance").c_str());
  }
  for (auto _ : state) c.run();
  const auto rate = benchmark::Counter::kIsIterationInvariantRate;
  if (c.flops > 0) {
    state.counters["GFLOP/s"] = benchmark::Counter(c.flops / 1e9, rate);
    state.counters["of_peak"] = benchmark::Counter(c.flops / peak, rate);
  }
  if (c.bytes > 0) state.counters["GB/s"] = benchmark::Counter(c.bytes / 1e9, rate);
}

}  // namespace
}  // namespace quern::bench

// QUERN_THREADS: the number of threads; one for each core without it.
int main(int argc, char** argv) {
  using namespace quern;
  restart_with_quiet_threads(argv);
  const char* threads = std::getenv("QUERN_THREADS");
  use_threads(threads ? std::atoi(threads) : 0);
  const double peak = measure_product_rate();
  std::printf("kernels %s, %d threads, peak (a product of 2048x512x2048) %.0f GFLOP/s\n",
              name_of(kernel_set()), num_threads(), peak / 1e9);
  for (const bench::Case& c : bench::all_cases()) {
    benchmark::RegisterBenchmark(c.name.c_str(), bench::time_case, c, peak)->UseRealTime();
  }
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
