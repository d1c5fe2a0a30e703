// SPDX-License-Identifier: MIT
// Expert loads of any number of steps, in bounded memory, with their means right.
#include "quern/recipes/load_history.h"

#include <gtest/gtest.h>

#include <limits>

namespace quern {
namespace {

TEST(LoadHistory, KeepsMeansOfEvenStretches) {
  for (const i64 steps : {1, 5, 64, 65, 1000, 4097}) {
    LoadHistory history;
    for (i64 step = 1; step <= steps; ++step)
      history.add(step, {{double(step), 2.0 - double(step)}});
    const auto& spans = history.spans();
    ASSERT_LE(spans.size(), LoadHistory::kMaxSpans);
    ASSERT_GE(i64(spans.size()), std::min<i64>(steps, 32));
    i64 next = 1;
    for (const LoadHistory::Span& span : spans) {
      EXPECT_EQ(span.first_step, next);
      next = span.last_step + 1;
      EXPECT_EQ(span.steps, next - span.first_step);
      EXPECT_TRUE(span.steps == spans.front().steps || &span == &spans.back());
      const double mean = double(span.first_step + span.last_step) / 2;
      EXPECT_NEAR(span.load[0][0], mean, 1e-9 * mean);
      EXPECT_NEAR(span.load[0][1], 2 - mean, 1e-9 * mean);
    }
    EXPECT_EQ(next, steps + 1);
  }
}

TEST(LoadHistory, PassesOverWhatItCannotAverage) {
  LoadHistory history;
  history.add(1, {});
  history.add(2, {{1, 1}, {1, 1}});
  history.add(3, {{1, 1}});
  history.add(4, {{1, std::numeric_limits<double>::quiet_NaN()}, {1, 1}});
  ASSERT_EQ(history.spans().size(), 1u);
  EXPECT_EQ(history.spans()[0].last_step, 2);
}

}  // namespace
}  // namespace quern
