// SPDX-License-Identifier: MIT
#include "quern/autograd/ops/balance_loss.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <utility>

#include "quern/autograd/kernels/parallel.h"
#include "quern/autograd/ops/checks.h"

namespace quern::ops {
namespace {

constexpr i64 kRowChunk = 64;

// What each loss multiplies the mean score of an expert with: f_i, f'_d(i) and f''_d(i).
struct Shares {
  std::vector<double> expert, device, communication;  // [experts]
};

Shares shares_of(const ChoiceCounts& counts, i64 top_k, const BalanceRule& rule) {
  const i64 experts = i64(counts.chosen.size()), per_device = experts / rule.devices;
  const double f = double(experts) / double(top_k * counts.tokens);
  const double f_sent = double(rule.devices) / double(rule.device_limit * counts.tokens);
  Shares s;
  for (i64 d = 0; d < rule.devices; ++d) {
    const auto first = counts.chosen.begin() + d * per_device;
    const double on_device = double(std::accumulate(first, first + per_device, i64{0}));
    for (i64 e = d * per_device; e < (d + 1) * per_device; ++e) {
      s.expert.push_back(f * double(counts.chosen[size_t(e)]));
      s.device.push_back(f * on_device / double(per_device));
      s.communication.push_back(f_sent * double(counts.sent[size_t(d)]));
    }
  }
  return s;
}

// The sum over these rows, for each column.
template <class T>
std::vector<double> column_sums(std::span<const T> rows, i64 columns) {
  std::vector<double> sums(size_t(columns), 0.0);
  for (size_t i = 0; i < rows.size(); i += size_t(columns)) {
    for (size_t e = 0; e < size_t(columns); ++e) sums[e] += double(rows[i + e]);
  }
  return sums;
}

void check(const Tensor& scores, const Tensor& ids, const BalanceRule& rule) {
  const i64 tokens = scores.dim(0), experts = scores.dim(1);
  expect_shape("balance_loss", "ids", ids, {tokens, ids.dim(1)});
  if (rule.sequences < 1 || tokens % rule.sequences != 0 || rule.devices < 1 ||
      experts % rule.devices != 0 || rule.device_limit < 1) {
    throw ShapeError({.what = "balance_loss: uneven sequences or devices"});
  }
  if (rule.counted.tokens == 0) return;
  if (rule.sequences != 1 || i64(rule.counted.chosen.size()) != experts ||
      i64(rule.counted.sent.size()) != rule.devices) {
    throw ShapeError({.what = "balance_loss: counts of other experts, or by sequence"});
  }
}

}  // namespace

void ChoiceCounts::add(const ChoiceCounts& other) {
  tokens += other.tokens;
  chosen.resize(other.chosen.size());
  sent.resize(other.sent.size());
  std::ranges::transform(chosen, other.chosen, chosen.begin(), std::plus<>());
  std::ranges::transform(sent, other.sent, sent.begin(), std::plus<>());
}

ChoiceCounts count_choices(const Tensor& ids, i64 experts, i64 devices) {
  const i64 tokens = ids.dim(0), top_k = ids.dim(1), per_device = experts / devices;
  ChoiceCounts counts{tokens, std::vector<i64>(size_t(experts), 0),
                      std::vector<i64>(size_t(devices), 0)};
  std::vector<i64> last(size_t(devices), -1);  // token counted for the device
  for (i64 i = 0; i < tokens * top_k; ++i) {
    const i64 expert = ids.data<i32>()[i], device = expert / per_device, token = i / top_k;
    if (expert < 0) continue;
    ++counts.chosen[size_t(expert)];
    counts.sent[size_t(device)] += std::exchange(last[size_t(device)], token) != token;
  }
  return counts;
}

BalanceLoss balance_loss(Tape& tape, const Var& scores, const Tensor& ids,
                         const BalanceRule& rule) {
  check(scores.value(), ids, rule);
  const i64 tokens = scores.dim(0), experts = scores.dim(1), top_k = ids.dim(1);
  const i64 size = tokens / rule.sequences;
  // The loss is linear in the scores: coefficient[sequence, expert].
  const Tensor coefficient = Tensor::zeros({rule.sequences, experts}, scores.dtype());
  Tensor y = Tensor::empty({}, scores.dtype());
  BalanceLoss out;
  for_float_type(y, [&]<class T>() {
    double loss = 0;
    for (i64 g = 0; g < rule.sequences; ++g) {
      const i64 first = g * size;
      const Shares f =
          shares_of(rule.counted.tokens > 0
                        ? rule.counted
                        : count_choices(ids.rows(first, first + size), experts, rule.devices),
                    top_k, rule);
      const Tensor rows = scores.value().rows(first, first + size);
      const std::vector<double> score = column_sums<T>(rows.span<T>(), experts);
      for (size_t e = 0; e < size_t(experts); ++e) {
        const double p = score[e] / double(tokens);
        out.expert += f.expert[e] * p;
        out.device += f.device[e] * p;
        out.communication += f.communication[e] * p;
        const double c = (rule.expert_alpha * f.expert[e] + rule.device_alpha * f.device[e] +
                          rule.communication_alpha * f.communication[e]) /
                         double(tokens);
        coefficient.data<T>()[g * experts + i64(e)] = T(c);
        loss += c * score[e];
      }
    }
    *y.data<T>() = T(loss);
  });
  out.loss = tape.record("balance_loss", {scores}, y,
                         [coefficient, tokens, experts, size](const Tensor& dy, Grads& d) {
                           const GradTarget ds = d.into(0);
                           for_float_type(dy, [&]<class T>() {
                             const T g = *dy.data<T>();
                             parallel_chunks(tokens, kRowChunk, [&](i64 begin, i64 end) {
                               for (i64 t = begin; t < end; ++t) {
                                 const T* c = coefficient.data<T>() + t / size * experts;
                                 T* to = ds.data<T>() + t * experts;
                                 for (i64 e = 0; e < experts; ++e)
                                   to[e] = (ds.accumulate ? to[e] : T(0)) + g * c[e];
                               }
                             });
                           });
                         });
  return out;
}

Var router_z_loss(Tape& tape, const Var& logits) {
  const i64 tokens = logits.dim(0), experts = logits.dim(1);
  // The gradient of a token's logits, for a gradient of 1: 2 / tokens * logsumexp * softmax.
  const Tensor slope = Tensor::like(logits.value());
  Tensor y = Tensor::empty({}, logits.dtype());
  for_float_type(y, [&]<class T>() {
    double sum = 0;
    for (i64 t = 0; t < tokens; ++t) {
      const T* z = logits.value().data<T>() + t * experts;
      T* to = slope.data<T>() + t * experts;
      const double largest = double(*std::max_element(z, z + experts));
      double total = 0;
      for (i64 e = 0; e < experts; ++e) total += std::exp(double(z[e]) - largest);
      const double log_sum = largest + std::log(total);
      sum += log_sum * log_sum;
      for (i64 e = 0; e < experts; ++e) {
        to[e] = T(2 * log_sum * std::exp(double(z[e]) - log_sum) / double(tokens));
      }
    }
    *y.data<T>() = T(sum / double(tokens));
  });
  return tape.record("router_z_loss", {logits}, y, [slope](const Tensor& dy, Grads& d) {
    const GradTarget dz = d.into(0);
    for_float_type(dy, [&]<class T>() {
      const T g = *dy.data<T>();
      for (i64 i = 0; i < slope.numel(); ++i) {
        dz.data<T>()[i] = (dz.accumulate ? dz.data<T>()[i] : T(0)) + g * slope.data<T>()[i];
      }
    });
  });
}

}  // namespace quern::ops
