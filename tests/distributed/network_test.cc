// SPDX-License-Identifier: MIT
// Costs of messages: the fit finds the line it is given, and measurements are alike on all ranks.
#include "quern/distributed/network.h"

#include <gtest/gtest.h>

#include "quern/autograd/error.h"
#include "tests/support/ranks.h"

namespace quern {
namespace {

using testing::world;

std::vector<TimedTraffic> timed(const LinkCost& cost, std::initializer_list<Traffic> traffic) {
  std::vector<TimedTraffic> times;
  for (const Traffic& t : traffic) times.push_back({t, cost.seconds(t)});
  return times;
}

TEST(FitLink, FindsTheLineThatTimesLieOn) {
  const LinkCost truth{2e-6, 3e-10};
  const LinkCost found = fit_link(timed(truth, {{1, 64}, {1, 4096}, {1, 1 << 20}, {3, 1 << 24}}));
  EXPECT_NEAR(found.alpha, truth.alpha, 1e-12);
  EXPECT_NEAR(found.beta, truth.beta, 1e-16);
}

// By absolute errors the two large messages would decide alone, and alpha be anything.
TEST(FitLink, WeighsSmallMessagesAsMuchAsLargeOnes) {
  std::vector<TimedTraffic> times = timed({1e-5, 1e-9}, {{1, 8}, {1, 64}, {1, 1e8}, {1, 1e8}});
  times[2].seconds *= 1.1;
  times[3].seconds *= 0.9;
  const LinkCost found = fit_link(times);
  EXPECT_NEAR(found.alpha, 1e-5, 1e-7);
  EXPECT_NEAR(found.beta, 1e-9, 2e-11);
}

TEST(FitLink, GivesNoNegativeCosts) {
  const std::vector<TimedTraffic> falling = {{{1, 1000}, 3e-6}, {{1, 100000}, 1e-6}};
  EXPECT_GE(fit_link(falling).alpha, 0);
  EXPECT_GE(fit_link(falling).beta, 0);
  const std::vector<TimedTraffic> steep = {{{1, 1000}, 1e-6}, {{1, 100000}, 1e-3}};
  EXPECT_EQ(fit_link(steep).alpha, 0);
  EXPECT_GT(fit_link(steep).beta, 0);
  EXPECT_THROW(fit_link({}), ShapeError);
}

TEST(Traffic, IsThatOfTheCalls) {
  EXPECT_EQ(sum_traffic(1, 1000).bytes, 0);
  EXPECT_EQ(sum_traffic(4, 1000).messages, 4);  // two rounds of halves, and back
  EXPECT_EQ(sum_traffic(4, 1000).bytes, 1500);
  EXPECT_EQ(sum_traffic(3, 1000).messages, 4);  // up a tree of two levels, and down
  EXPECT_EQ(sum_traffic(3, 1000).bytes, 4000);
  EXPECT_EQ(exchange_traffic(8, 700).messages, 7);
  EXPECT_EQ(exchange_traffic(1, 0).messages, 0);
}

TEST(MeasureNetwork, SaysTheSameToAllRanks) {
  if (world().alone()) GTEST_SKIP() << "needs another rank";
  const NetworkTimes times = measure_network(world());
  const NetworkCost cost = fit_network(times);
  for (const auto* calls : {&times.message, &times.sum, &times.exchange}) {
    ASSERT_GE(calls->size(), 2u);
    for (const TimedTraffic& t : *calls) EXPECT_GT(t.seconds, 0);
  }
  EXPECT_GT(times.message.back().traffic.bytes, 1000);
  EXPECT_GT(cost.sum.beta, 0);
  EXPECT_GT(cost.exchange.beta, 0);
  const double mine[] = {cost.message.alpha, cost.sum.beta, cost.exchange.beta};
  for (const auto& other : world().all_gather_values(std::span<const double>(mine))) {
    EXPECT_EQ(other, std::vector<double>(mine, mine + 3));
  }
}

}  // namespace
}  // namespace quern
