// SPDX-License-Identifier: MIT
// The learning rate and the batch size over the steps, at points worked out by hand.
#include <gtest/gtest.h>

#include <algorithm>

#include "quern/autograd/error.h"
#include "quern/optim/batch_schedule.h"
#include "quern/optim/lr_schedule.h"

namespace quern {
namespace {

TEST(LrSchedule, WarmUp) {
  for (LrKind kind : {LrKind::constant, LrKind::cosine, LrKind::wsd, LrKind::multistep}) {
    const LrSchedule s{.kind = kind, .peak_lr = 5, .warmup_steps = 4, .total_steps = 100};
    EXPECT_DOUBLE_EQ(s.lr(0), 1) << name_of(kind);
    EXPECT_DOUBLE_EQ(s.lr(3), 4) << name_of(kind);
    EXPECT_DOUBLE_EQ(s.lr(4), 5) << name_of(kind);
  }
  EXPECT_EQ((LrSchedule{.kind = LrKind::constant, .peak_lr = 5}.lr(0)), 5);
  EXPECT_EQ((LrSchedule{.kind = LrKind::constant, .peak_lr = 5}.lr(1'000'000)), 5);
}

TEST(LrSchedule, Cosine) {
  const LrSchedule s{.peak_lr = 2, .warmup_steps = 10, .total_steps = 110, .min_lr_ratio = 0.1};
  EXPECT_DOUBLE_EQ(s.lr(10), 2);
  EXPECT_DOUBLE_EQ(s.lr(35), 2 * (0.1 + 0.9 * 0.5 * (1 + 0.70710678118654752)));
  EXPECT_DOUBLE_EQ(s.lr(60), 1.1);
  EXPECT_GT(s.lr(109), 0.2);
  EXPECT_DOUBLE_EQ(s.lr(110), 0.2);
  EXPECT_DOUBLE_EQ(s.lr(500), 0.2);
}

TEST(LrSchedule, Wsd) {
  const LrSchedule s{.kind = LrKind::wsd,
                     .peak_lr = 1,
                     .warmup_steps = 10,
                     .total_steps = 100,
                     .min_lr_ratio = 0,
                     .decay_fraction = 0.2};
  EXPECT_EQ(s.lr(10), 1);
  EXPECT_EQ(s.lr(80), 1);
  EXPECT_DOUBLE_EQ(s.lr(81), 0.95);
  EXPECT_DOUBLE_EQ(s.lr(90), 0.5);
  EXPECT_NEAR(s.lr(99), 0.05, 1e-15);
  EXPECT_EQ(s.lr(100), 0);
}

TEST(LrSchedule, Multistep) {
  const LrSchedule s{.kind = LrKind::multistep, .peak_lr = 1, .total_steps = 50};
  EXPECT_EQ(s.lr(39), 1);
  EXPECT_DOUBLE_EQ(s.lr(40), 0.316);
  EXPECT_DOUBLE_EQ(s.lr(44), 0.316);
  EXPECT_DOUBLE_EQ(s.lr(45), 0.316 * 0.316);
  EXPECT_DOUBLE_EQ(s.lr(49), 0.316 * 0.316);
  // Fractions that no double holds exactly still begin at their step.
  const LrSchedule exact{
      .kind = LrKind::multistep, .peak_lr = 1, .total_steps = 100, .drops = {{0.07, 0.5}}};
  EXPECT_EQ(exact.lr(6), 1);
  EXPECT_EQ(exact.lr(7), 0.5);
}

TEST(LrSchedule, RefusesWhatMakesNoSense) {
  LrSchedule{}.validate();
  EXPECT_THROW(LrSchedule{.peak_lr = -1}.validate(), ConfigError);
  EXPECT_THROW(LrSchedule{.warmup_steps = -1}.validate(), ConfigError);
  EXPECT_THROW(LrSchedule{.min_lr_ratio = 1.5}.validate(), ConfigError);
  EXPECT_THROW(LrSchedule{.decay_fraction = -0.5}.validate(), ConfigError);
  EXPECT_THROW((LrSchedule{.drops = {{2, 0.5}}}.validate()), ConfigError);
}

TEST(BatchSchedule, Constant) {
  const BatchSchedule s({.start_sequences = 4, .final_sequences = 8, .seq = 16});
  EXPECT_EQ(s.stages().size(), 1u);  // no ramp: the final size at once
  EXPECT_EQ(s.sequences(0), 8);
  EXPECT_EQ(s.first_sample(1000), 8000);
}

TEST(BatchSchedule, RampByHand) {
  // 2 -> 6 in twos over 80 tokens, 10 tokens a sequence: 4 is due at 40 tokens, 6 at 80.
  const BatchSchedule s(
      {.start_sequences = 2, .final_sequences = 6, .rampup_tokens = 80, .multiple = 2, .seq = 10});
  const i64 sizes[] = {2, 2, 4, 6, 6};  // seen before each: 0, 20, 40, 80, 140
  const i64 first[] = {0, 2, 4, 8, 14};
  for (i64 step = 0; step < 5; ++step) {
    EXPECT_EQ(s.sequences(step), sizes[step]) << step;
    EXPECT_EQ(s.first_sample(step), first[step]) << step;
  }
  EXPECT_EQ(s.str(),
            "from step 0: 2 sequences of 10 tokens (first sample 0)\n"
            "from step 2: 4 sequences of 10 tokens (first sample 4)\n"
            "from step 3: 6 sequences of 10 tokens (first sample 8)\n");
}

// The rule, step after step.
void compare_with_rule(const BatchScheduleOptions& o, i64 steps) {
  const BatchSchedule s(o);
  i64 sample = 0;
  for (i64 step = 0; step < steps; ++step) {
    const __int128 tokens = std::min(sample * o.seq, o.rampup_tokens);
    const i64 grown = i64((o.final_sequences - o.start_sequences) * tokens / o.rampup_tokens);
    const i64 size = (o.start_sequences + grown) / o.multiple * o.multiple;
    ASSERT_EQ(s.sequences(step), size) << step;
    ASSERT_EQ(s.first_sample(step), sample) << step;
    sample += size;
  }
  EXPECT_EQ(s.sequences(steps), o.final_sequences);
}

TEST(BatchSchedule, EqualsTheRuleStepByStep) {
  compare_with_rule({2304, 9216, 225'000'000'000, 64, 4096}, 20'000);  // DeepSeek-V2
  compare_with_rule({3, 300, 1000, 3, 7}, 50);                         // skips sizes
  compare_with_rule({1, 17, 12'345, 1, 33}, 200);
}

TEST(BatchSchedule, RefusesWhatMakesNoSense) {
  EXPECT_THROW(BatchSchedule({.start_sequences = 0}), ConfigError);
  EXPECT_THROW(BatchSchedule({.start_sequences = 4, .final_sequences = 2}), ConfigError);
  EXPECT_THROW(BatchSchedule({.start_sequences = 3, .final_sequences = 4, .multiple = 2}),
               ConfigError);
  EXPECT_THROW(BatchSchedule({.rampup_tokens = -1}), ConfigError);
  EXPECT_THROW(BatchSchedule({.multiple = 0}), ConfigError);
  EXPECT_THROW(BatchSchedule({.seq = 0}), ConfigError);
}

}  // namespace
}  // namespace quern
