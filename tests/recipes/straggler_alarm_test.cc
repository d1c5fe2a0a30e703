// SPDX-License-Identifier: MIT
#include "quern/recipes/straggler_alarm.h"

#include <gtest/gtest.h>

namespace quern {
namespace {

TEST(StragglerAlarm, NamesARankOnceAfterTwentySlowSteps) {
  StragglerAlarm alarm;
  const std::vector<double> even = {1, 1.4, 1.1}, slow = {1, 1.2, 1.9};
  for (int i = 0; i < 50; ++i) EXPECT_TRUE(alarm.look(even).empty());
  for (int i = 1; i < 20; ++i) EXPECT_TRUE(alarm.look(slow).empty());
  EXPECT_TRUE(alarm.look(even).empty());  // begins anew
  for (int i = 1; i < 20; ++i) EXPECT_TRUE(alarm.look(slow).empty());
  const auto found = alarm.look(slow);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].rank, 2);
  EXPECT_NEAR(found[0].ratio, 1.9 / 1.2, 1e-12);
  for (int i = 0; i < 50; ++i) EXPECT_TRUE(alarm.look(slow).empty());
}

TEST(StragglerAlarm, OfTwoRanksTheSlowerOne) {
  StragglerAlarm alarm;
  const std::vector<double> seconds = {4, 1};
  for (int i = 1; i < 20; ++i) EXPECT_TRUE(alarm.look(seconds).empty());
  const auto found = alarm.look(seconds);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].rank, 0);
  EXPECT_TRUE(StragglerAlarm().look(std::vector<double>{5}).empty());
}

}  // namespace
}  // namespace quern
