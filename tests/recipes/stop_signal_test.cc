// SPDX-License-Identifier: MIT
#include "quern/recipes/stop_signal.h"

#include <gtest/gtest.h>
#include <stdlib.h>

namespace quern {
namespace {

TEST(StopSignals, EachOfThemRaisesTheFlag) {
  for (const int number : {SIGINT, SIGTERM, SIGUSR1}) {
    const StopSignals signals;
    EXPECT_FALSE(stop_requested());
    EXPECT_NO_THROW(stop_here());
    raise(number);
    EXPECT_TRUE(stop_requested());
    EXPECT_THROW(stop_here(), StopRequested);
  }
}

TEST(StopSignals, AnInnerOneForgetsNothing) {
  const StopSignals outer;
  raise(SIGTERM);
  { const StopSignals inner; }
  const StopSignals another;
  EXPECT_TRUE(stop_requested());
}

TEST(StopSignals, WhatWasThereComesBack) {
  signal(SIGUSR1, SIG_IGN);
  { const StopSignals signals; }
  struct sigaction present {};
  sigaction(SIGUSR1, nullptr, &present);
  EXPECT_EQ(present.sa_handler, SIG_IGN);
  signal(SIGUSR1, SIG_DFL);
}

// Ends the process as the signals say, or with 0 when it survives all.
void endure(std::initializer_list<int> numbers) {
  const StopSignals signals;
  for (const int number : numbers) raise(number);
  _exit(stop_requested() ? 0 : 1);
}

TEST(StopSignalsDeathTest, ASecondEndsAtOnce) {
  using ::testing::ExitedWithCode;
  using ::testing::KilledBySignal;
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(endure({SIGINT, SIGINT}), KilledBySignal(SIGINT), "");
  EXPECT_EXIT(endure({SIGINT, SIGTERM}), KilledBySignal(SIGTERM), "");
  EXPECT_EXIT(endure({SIGUSR1, SIGTERM, SIGTERM}), KilledBySignal(SIGTERM), "");
  EXPECT_EXIT(endure({SIGTERM}), ExitedWithCode(0), "");
  EXPECT_EXIT(endure({SIGTERM, SIGUSR1, SIGUSR1}), ExitedWithCode(0), "");
  EXPECT_EXIT(endure({SIGUSR1, SIGUSR1, SIGINT}), ExitedWithCode(0), "");
}

}  // namespace
}  // namespace quern
