// SPDX-License-Identifier: MIT
// Who finds room: against loops that count who comes before whom.
#include "quern/autograd/ops/capacity.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "quern/autograd/error.h"
#include "quern/autograd/kernels/parallel.h"
#include "quern/autograd/ops/routing.h"
#include "tests/support/random_tensor.h"

namespace quern {
namespace {

using ops::CapacityOrder;
using ops::CapacityRule;
using testing::random_tensor;

std::vector<i32> values(const Tensor& t) { return {t.span<i32>().begin(), t.span<i32>().end()}; }

// Scores with many ties.
Tensor rough_scores(i64 tokens, i64 experts, std::uint64_t seed) {
  const Tensor s = random_tensor({tokens, experts}, DType::f64, seed);
  for (double& x : s.span<double>()) x = std::round(2 * x);
  return s;
}

// A copy stays where fewer than `capacity` copies of its bin come before it.
std::vector<i32> kept_by_counting(const Tensor& ids, const Tensor& scores,
                                  const CapacityRule& rule) {
  const i64 top_k = ids.dim(1), experts = scores.dim(1), size = experts / rule.bins;
  const auto score = [&](i64 i) {
    return scores.data<double>()[i / top_k * experts + ids.data<i32>()[i]];
  };
  const auto is_exempt = [&](i64 i) {
    return !rule.exempt.empty() && rule.exempt[size_t(i / top_k)];
  };
  std::vector<i32> kept = values(ids);
  for (i64 i = 0; i < ids.numel(); ++i) {
    const i32 mine = ids.data<i32>()[i];
    if (mine < 0 || is_exempt(i)) continue;
    i64 before = 0;
    for (i64 j = 0; j < ids.numel(); ++j) {
      const i32 other = ids.data<i32>()[j];
      if (j == i || other < 0 || other / size != mine / size) continue;
      if (is_exempt(j)) {
        ++before;
      } else if (rule.order == CapacityOrder::position) {
        before += j % top_k < i % top_k || (j % top_k == i % top_k && j < i);
      } else if (score(j) != score(i)) {
        before += score(j) > score(i);
      } else {
        before += j / top_k != i / top_k ? j < i : other < mine;
      }
    }
    if (before >= rule.capacity) kept[size_t(i)] = -1;
  }
  return kept;
}

TEST(Capacity, KeepsThoseThatComeFirst) {
  const i64 tokens = 31, experts = 6;
  i64 dropped = 0;
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    const Tensor scores = rough_scores(tokens, experts, seed);
    for (const i64 top_k : {1, 2, 4}) {
      const Tensor ids = ops::top_k_columns(scores, {.top_k = top_k});
      for (const i64 bins : {6, 3, 1}) {
        for (const CapacityOrder order : {CapacityOrder::position, CapacityOrder::score}) {
          for (const i64 capacity : {1, 7, 1000}) {
            CapacityRule rule{bins, capacity, order, {}};
            EXPECT_EQ(values(ops::within_capacity(ids, scores, rule)),
                      kept_by_counting(ids, scores, rule));
            for (i64 t = 0; t < tokens; ++t) rule.exempt.push_back(t % 5 == 2);
            const std::vector<i32> kept = values(ops::within_capacity(ids, scores, rule));
            EXPECT_EQ(kept, kept_by_counting(ids, scores, rule));
            dropped += std::ranges::count(kept, -1);
          }
        }
      }
    }
  }
  EXPECT_GT(dropped, 1000);
}

// So many copies that several threads share the bins.
TEST(Capacity, ThreadsDropTheSame) {
  const Tensor scores = rough_scores(3000, 6, 1);
  const Tensor ids = ops::top_k_columns(scores, {.top_k = 2});
  const CapacityRule rule{6, 800, CapacityOrder::score, {}};
  set_num_threads(3);
  const std::vector<i32> kept = values(ops::within_capacity(ids, scores, rule));
  set_num_threads(1);
  EXPECT_EQ(kept, kept_by_counting(ids, scores, rule));
  EXPECT_GT(std::ranges::count(kept, -1), 0);
}

// Scores of which every third is bad, and so many that sorting does more than insert.
TEST(Capacity, NanComesLast) {
  const i64 tokens = 200, experts = 2;
  const Tensor scores = rough_scores(tokens, experts, 1), lowest = scores.clone();
  const Tensor ids = ops::top_k_columns(scores, {.top_k = 1});
  for (i64 i = 0; i < scores.numel(); i += 3) {
    scores.data<double>()[i] = std::numeric_limits<double>::quiet_NaN();
    lowest.data<double>()[i] = -std::numeric_limits<double>::infinity();
  }
  for (const i64 capacity : {20, 60, 80}) {
    const CapacityRule rule{experts, capacity, CapacityOrder::score, {}};
    EXPECT_EQ(values(ops::within_capacity(ids, scores, rule)), kept_by_counting(ids, lowest, rule));
  }
  for (const i64 capacity : {20, 150}) {
    EXPECT_EQ(values(ops::expert_choice(scores, capacity)),
              values(ops::expert_choice(lowest, capacity)));
  }
}

TEST(Capacity, FirstChoicesComeBeforeSecondOnes) {
  const Tensor ids = Tensor::from<i32>({3, 2}, std::vector<i32>{1, 0, 0, 1, 0, 1});
  const Tensor scores = Tensor::zeros({3, 2}, DType::f32);
  EXPECT_EQ(values(ops::within_capacity(ids, scores, {.bins = 2, .capacity = 2, .exempt = {}})),
            (std::vector<i32>{1, -1, 0, 1, 0, -1}));
}

TEST(Capacity, WhatIsGoneStaysGoneAndTakesNoRoom) {
  const Tensor ids = Tensor::from<i32>({3, 1}, std::vector<i32>{-1, 0, 0});
  const Tensor scores = Tensor::zeros({3, 2}, DType::f32);
  EXPECT_EQ(values(ops::within_capacity(ids, scores, {.bins = 2, .capacity = 1, .exempt = {}})),
            (std::vector<i32>{-1, 0, -1}));
}

TEST(ExpertChoice, EachExpertTakesItsBestTokens) {
  const i64 tokens = 19, experts = 5;
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    const Tensor scores = rough_scores(tokens, experts, seed);
    const auto s = [&](i64 t, i64 e) { return scores.data<double>()[t * experts + e]; };
    for (const i64 capacity : {1, 4, 19}) {
      const Tensor ids = ops::expert_choice(scores, capacity);
      size_t most = 1;
      for (i64 t = 0; t < tokens; ++t) {
        std::vector<i32> expected;
        for (i64 e = 0; e < experts; ++e) {
          i64 before = 0;
          for (i64 other = 0; other < tokens; ++other) {
            before += s(other, e) > s(t, e) || (s(other, e) == s(t, e) && other < t);
          }
          if (before < capacity) expected.push_back(i32(e));
        }
        most = std::max(most, expected.size());
        expected.resize(size_t(ids.dim(1)), -1);
        EXPECT_EQ(values(ids.rows(t, t + 1)), expected);
      }
      EXPECT_EQ(ids.dim(1), i64(most));
    }
  }
}

TEST(Capacity, RefusesWhatDoesNotFit) {
  const Tensor ids = Tensor::from<i32>({2, 1}, std::vector<i32>{1, 0});
  const Tensor scores = Tensor::zeros({2, 4}, DType::f32);
  EXPECT_THROW(ops::within_capacity(ids, scores, {.bins = 3, .exempt = {}}), ShapeError);
  EXPECT_THROW(ops::within_capacity(ids, scores, {.bins = 2, .exempt = {true}}), ShapeError);
  EXPECT_THROW(ops::expert_choice(scores, 3), ShapeError);
  EXPECT_THROW(ops::expert_choice(scores, 0), ShapeError);
}

}  // namespace
}  // namespace quern
