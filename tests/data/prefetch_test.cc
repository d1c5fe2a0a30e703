// SPDX-License-Identifier: MIT
#include "quern/data/prefetch.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>

#include "quern/autograd/error.h"

namespace quern {
namespace {

Batch numbered(i64 step) { return {.tokens = Tensor::full({1, 2}, DType::i32, double(step))}; }

i64 number_of(const Batch& batch) { return batch.tokens.span<i32>()[0]; }

TEST(Prefetcher, GivesTheStepsInOrder) {
  for (const int depth : {1, 3}) {
    Prefetcher batches(numbered, 7, depth);
    for (i64 step = 7; step < 200; ++step) EXPECT_EQ(number_of(batches.next()), step);
  }
}

TEST(Prefetcher, RunsAheadByItsDepthAndNoMore) {
  std::atomic<int> made = 0;
  Prefetcher batches([&](i64 step) { return ++made, numbered(step); }, 0, 2);
  for (int i = 0; i < 1000 && made < 3; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(made, 3);  // two ready, one in hand
  EXPECT_EQ(number_of(batches.next()), 0);
}

TEST(Prefetcher, RethrowsWhereTheBatchIsMissing) {
  Prefetcher batches(
      [](i64 step) {
        if (step == 3) throw DataError({.what = "step 3"});
        return numbered(step);
      },
      0, 2);
  for (i64 step = 0; step < 3; ++step) EXPECT_EQ(number_of(batches.next()), step);
  EXPECT_THROW(batches.next(), DataError);
  EXPECT_THROW(batches.next(), DataError);
}

TEST(Prefetcher, StopsWithoutBeingUsed) { const Prefetcher batches(numbered, 0, 4); }

}  // namespace
}  // namespace quern
