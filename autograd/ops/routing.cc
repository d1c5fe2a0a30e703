// SPDX-License-Identifier: MIT
#include "quern/autograd/ops/routing.h"

#include <algorithm>
#include <limits>
#include <span>
#include <vector>

#include "quern/autograd/kernels/parallel.h"
#include "quern/autograd/ops/checks.h"

namespace quern::ops {
namespace {

constexpr i64 kRowChunk = 64;

// The indices of the order.size() largest of values, largest first, ties to the lowest index. Few
// of them are sought among many, so each value is compared with the least of the best so far.
template <class T>
void largest(std::span<const T> values, std::span<i32> order) {
  size_t found = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    if (found == order.size() && !(values[i] > values[size_t(order[found - 1])])) continue;
    size_t place = found == order.size() ? found - 1 : found++;
    for (; place > 0 && values[i] > values[size_t(order[place - 1])]; --place) {
      order[place] = order[place - 1];
    }
    order[place] = i32(i);
  }
}

template <class T>
T group_score(std::span<const T> scores, GroupScore kind) {
  T best = -std::numeric_limits<T>::infinity(), second = best;
  for (const T s : scores) {
    second = std::max(second, std::min(best, s));
    best = std::max(best, s);
  }
  return kind == GroupScore::best ? best : best + second;
}

// Scores outside the best groups become -infinity.
template <class T>
void keep_best_groups(std::span<T> scores, const ChoiceRule& rule) {
  const size_t size = scores.size() / size_t(rule.n_group);
  std::vector<T> worth;
  for (size_t first = 0; first < scores.size(); first += size) {
    worth.push_back(group_score<T>(scores.subspan(first, size), rule.group_score));
  }
  std::vector<i32> best(static_cast<size_t>(rule.topk_group));
  largest<T>(worth, best);
  for (i32 g = 0; g < i32(rule.n_group); ++g) {
    if (std::ranges::find(best, g) != best.end()) continue;
    std::ranges::fill(scores.subspan(size_t(g) * size, size), -std::numeric_limits<T>::infinity());
  }
}

void check(const ChoiceRule& rule, const Tensor& scores) {
  const i64 experts = scores.dim(1), size = experts / std::max<i64>(rule.n_group, 1);
  const i64 least = rule.group_score == GroupScore::best ? 1 : 2;
  if (rule.top_k < 1 || rule.n_group < 1 || experts % rule.n_group != 0 ||
      rule.topk_group > rule.n_group || rule.top_k > size * rule.topk_group ||
      (rule.n_group > 1 && size < least)) {
    throw ShapeError({.what = "top_k_columns: more choices than columns, or uneven groups"});
  }
  if (!rule.bias.defined()) return;
  expect_shape("top_k_columns", "bias", rule.bias, {experts});
  expect_same_type("top_k_columns", scores, rule.bias);
}

}  // namespace

Tensor top_k_columns(const Tensor& scores, const ChoiceRule& rule) {
  check(rule, scores);
  const i64 tokens = scores.dim(0), experts = scores.dim(1);
  const Tensor ids = Tensor::empty({tokens, rule.top_k}, DType::i32);
  for_float_type(scores, [&]<class T>() {
    const T* bias = rule.bias.defined() ? rule.bias.data<T>() : nullptr;
    parallel_chunks(tokens, kRowChunk, [&](i64 begin, i64 end) {
      std::vector<T> row(static_cast<size_t>(experts));
      for (i64 t = begin; t < end; ++t) {
        std::copy_n(scores.data<T>() + t * experts, experts, row.begin());
        for (i64 e = 0; bias != nullptr && e < experts; ++e) row[size_t(e)] += bias[e];
        if (rule.n_group > 1) keep_best_groups<T>(row, rule);
        largest<T>(row, std::span(ids.data<i32>() + t * rule.top_k, size_t(rule.top_k)));
      }
    });
  });
  return ids;
}

Var gate_weights(Tape& tape, const Var& scores, const Tensor& ids, bool normalise, double scale) {
  const i64 tokens = scores.dim(0), experts = scores.dim(1), top_k = ids.dim(1);
  expect_shape("gate_weights", "ids", ids, {tokens, top_k});
  Tensor w = Tensor::empty({tokens, top_k}, scores.dtype());
  Tensor sums = Tensor::empty({tokens}, scores.dtype());
  for_float_type(w, [&]<class T>() {
    for (i64 t = 0; t < tokens; ++t) {
      const T* s = scores.value().data<T>() + t * experts;
      const i32* id = ids.data<i32>() + t * top_k;
      T sum = T(1e-20);
      for (i64 k = 0; k < top_k; ++k) sum += id[k] < 0 ? T(0) : s[id[k]];
      sums.data<T>()[t] = sum;
      const T factor = normalise ? T(scale) / sum : T(scale);
      for (i64 k = 0; k < top_k; ++k) {
        w.data<T>()[t * top_k + k] = id[k] < 0 ? T(0) : s[id[k]] * factor;
      }
    }
  });
  return tape.record(
      "gate_weights", {scores}, w,
      [w, sums, ids, tokens, experts, top_k, normalise, scale](const Tensor& dy, Grads& d) {
        const GradTarget ds = d.into(0);
        if (!ds.accumulate) ds.tensor.fill(0);
        for_float_type(dy, [&]<class T>() {
          for (i64 t = 0; t < tokens; ++t) {
            const T* g = dy.data<T>() + t * top_k;
            const T* wt = w.data<T>() + t * top_k;
            // w_k = scale s_k / S: dL/ds_k = (scale g_k - sum_j g_j w_j) / S
            T inner = 0;
            for (i64 k = 0; k < top_k; ++k) inner += g[k] * wt[k];
            for (i64 k = 0; k < top_k; ++k) {
              const i32 expert = ids.data<i32>()[t * top_k + k];
              if (expert < 0) continue;
              const T gradient =
                  normalise ? (T(scale) * g[k] - inner) / sums.data<T>()[t] : T(scale) * g[k];
              ds.data<T>()[t * experts + expert] += gradient;
            }
          }
        });
      });
}

}  // namespace quern::ops
