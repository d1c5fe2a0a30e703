// SPDX-License-Identifier: MIT
#include "bench/cases.h"
#include "quern/autograd/kernels/attention.h"

namespace quern::bench {

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

}  // namespace quern::bench
