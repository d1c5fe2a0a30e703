// SPDX-License-Identifier: MIT
#include "quern/recipes/straggler_alarm.h"

#include <gtest/gtest.h>

namespace quern {
namespace {

int named_in(StragglerAlarm& alarm, const std::vector<double>& seconds, int steps) {
  int named = 0;
  for (int i = 0; i < steps; ++i) named += int(alarm.look(seconds).size());
  return named;
}

const std::vector<double> kEven = {1, 1.4, 1.1}, kSlow = {1, 1.2, 1.9};

TEST(StragglerAlarm, NamesARankThatIsSlowInFifteenOfTwentySteps) {
  StragglerAlarm alarm;
  EXPECT_EQ(named_in(alarm, kEven, 50), 0);
  EXPECT_EQ(named_in(alarm, kSlow, 10), 0);
  EXPECT_EQ(named_in(alarm, kEven, 5), 0);
  EXPECT_EQ(named_in(alarm, kSlow, 4), 0);
  const auto found = alarm.look(kSlow);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].rank, 2);
  EXPECT_NEAR(found[0].ratio, 1.9 / 1.2, 1e-12);
}

TEST(StragglerAlarm, PassesOverAHiccup) {
  StragglerAlarm alarm;
  EXPECT_EQ(named_in(alarm, kSlow, 14), 0);
  EXPECT_EQ(named_in(alarm, kEven, 6), 0);
  EXPECT_EQ(named_in(alarm, kSlow, 6), 0);  // of the last twenty steps fourteen
}

TEST(StragglerAlarm, NamesARankAgainOnceItHasKeptUp) {
  StragglerAlarm alarm;
  EXPECT_EQ(named_in(alarm, kSlow, 80), 1);
  EXPECT_EQ(named_in(alarm, kEven, 15), 0);
  EXPECT_EQ(named_in(alarm, kSlow, 80), 0);
  EXPECT_EQ(named_in(alarm, kEven, 20), 0);
  EXPECT_EQ(named_in(alarm, kSlow, 80), 1);
}

TEST(StragglerAlarm, OfTwoRanksTheSlowerOne) {
  StragglerAlarm alarm;
  const std::vector<double> seconds = {4, 1};
  EXPECT_EQ(named_in(alarm, seconds, 14), 0);
  const auto found = alarm.look(seconds);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].rank, 0);
  EXPECT_TRUE(StragglerAlarm().look(std::vector<double>{5}).empty());
}

}  // namespace
}  // namespace quern
