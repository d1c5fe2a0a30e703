// SPDX-License-Identifier: MIT
#include "quern/autograd/ops/capacity.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "quern/autograd/error.h"
#include "quern/autograd/kernels/parallel.h"

namespace quern::ops {
namespace {

constexpr i64 kChunk = 4096;  // copies or scores that are worth a thread

// A score by which one can sort: NaN, which is neither above nor below any other, is the lowest.
double sortable(double score) {
  return std::isnan(score) ? -std::numeric_limits<double>::infinity() : score;
}

// A choice, by its place in ids.
struct Copy {
  i64 place, token, slot;
  i32 expert;
  double score;
  bool exempt;
};

bool is_served_before(const Copy& a, const Copy& b, CapacityOrder order) {
  if (a.exempt != b.exempt) return a.exempt;
  if (order == CapacityOrder::position) {
    return a.slot != b.slot ? a.slot < b.slot : a.token < b.token;
  }
  if (a.score != b.score) return a.score > b.score;
  return a.token != b.token ? a.token < b.token : a.expert < b.expert;
}

// The copies that want to go to each bin.
template <class T>
std::vector<std::vector<Copy>> copies_by_bin(const Tensor& ids, const Tensor& scores,
                                             const CapacityRule& rule) {
  const i64 tokens = ids.dim(0), top_k = ids.dim(1), experts = scores.dim(1);
  std::vector<std::vector<Copy>> bins(static_cast<size_t>(rule.bins));
  for (i64 i = 0; i < tokens * top_k; ++i) {
    const i64 token = i / top_k;
    const i32 expert = ids.data<i32>()[i];
    if (expert < 0) continue;
    const double score = sortable(double(scores.data<T>()[token * experts + expert]));
    const bool exempt = !rule.exempt.empty() && rule.exempt[size_t(token)];
    bins[size_t(expert / (experts / rule.bins))].push_back(
        {i, token, i % top_k, expert, score, exempt});
  }
  return bins;
}

// Writes -1 over the copies of one bin that find no room.
void drop(std::vector<Copy>& copies, const CapacityRule& rule, const Tensor& kept) {
  if (i64(copies.size()) <= rule.capacity) return;
  std::ranges::sort(
      copies, [&](const Copy& a, const Copy& b) { return is_served_before(a, b, rule.order); });
  for (size_t i = size_t(rule.capacity); i < copies.size(); ++i) {
    if (!copies[i].exempt) kept.data<i32>()[copies[i].place] = -1;
  }
}

// The `capacity` best tokens of a column of scores.
template <class T>
std::vector<i32> best_tokens(const Tensor& scores, i64 column, i64 capacity) {
  const i64 experts = scores.dim(1);
  const T* s = scores.data<T>() + column;
  std::vector<i32> order(static_cast<size_t>(scores.dim(0)));
  std::iota(order.begin(), order.end(), 0);
  std::partial_sort(order.begin(), order.begin() + capacity, order.end(), [&](i32 a, i32 b) {
    const double u = sortable(double(s[a * experts])), v = sortable(double(s[b * experts]));
    return u > v || (u == v && a < b);
  });
  order.resize(size_t(capacity));
  return order;
}

}  // namespace

Tensor within_capacity(const Tensor& ids, const Tensor& scores, const CapacityRule& rule) {
  if (rule.bins < 1 || scores.dim(1) % rule.bins != 0 || rule.capacity < 1 ||
      (!rule.exempt.empty() && i64(rule.exempt.size()) != ids.dim(0))) {
    throw ShapeError({.what = "within_capacity: uneven bins, no room, or marks of other tokens"});
  }
  const Tensor kept = ids.clone();
  for_float_type(scores, [&]<class T>() {
    auto bins = copies_by_bin<T>(ids, scores, rule);
    const i64 bins_per_chunk = std::max<i64>(1, kChunk * rule.bins / std::max<i64>(1, ids.numel()));
    parallel_chunks(rule.bins, bins_per_chunk, [&](i64 begin, i64 end) {
      for (i64 bin = begin; bin < end; ++bin) drop(bins[size_t(bin)], rule, kept);
    });
  });
  return kept;
}

Tensor expert_choice(const Tensor& scores, i64 capacity) {
  const i64 tokens = scores.dim(0), experts = scores.dim(1);
  if (capacity < 1 || capacity > tokens) {
    throw ShapeError({.what = "expert_choice: no room, or more than there are tokens"});
  }
  std::vector<std::vector<i32>> chosen(static_cast<size_t>(experts));  // tokens of each expert
  for_float_type(scores, [&]<class T>() {
    parallel_chunks(experts, std::max<i64>(1, kChunk / tokens), [&](i64 begin, i64 end) {
      for (i64 e = begin; e < end; ++e) chosen[size_t(e)] = best_tokens<T>(scores, e, capacity);
    });
  });
  std::vector<std::vector<i32>> experts_of(static_cast<size_t>(tokens));
  size_t columns = 1;
  for (i64 e = 0; e < experts; ++e) {
    for (const i32 t : chosen[size_t(e)]) {
      experts_of[size_t(t)].push_back(i32(e));
      columns = std::max(columns, experts_of[size_t(t)].size());
    }
  }
  const Tensor ids = Tensor::empty({tokens, i64(columns)}, DType::i32);
  std::ranges::fill(ids.span<i32>(), -1);
  for (i64 t = 0; t < tokens; ++t) {
    std::ranges::copy(experts_of[size_t(t)], ids.data<i32>() + t * i64(columns));
  }
  return ids;
}

}  // namespace quern::ops
