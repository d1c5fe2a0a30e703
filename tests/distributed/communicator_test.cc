// SPDX-License-Identifier: MIT
#include "quern/distributed/communicator.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "quern/autograd/error.h"
#include "quern/autograd/kernels/parallel.h"
#include "quern/distributed/groups.h"
#include "tests/support/ranks.h"

namespace quern {
namespace {

using testing::world;

TEST(Communicator, WithoutOthersNothingMoves) {
  const Communicator alone;
  EXPECT_EQ(alone.size(), 1);
  EXPECT_EQ(alone.rank(), 0);
  EXPECT_EQ(alone.broadcast("text", 0), "text");
  EXPECT_TRUE(alone.any(true));
  std::vector<double> values = {1, 2};
  alone.sum(std::span(values));
  EXPECT_EQ(values, (std::vector<double>{1, 2}));
  EXPECT_EQ(alone.all_gather_values(std::span<const double>(values)).size(), 1u);
}

TEST(Communicator, BroadcastsFromAnyRank) {
  for (int root = 0; root < world().size(); ++root) {
    const std::string mine(size_t(10 + world().rank()), char('a' + world().rank()));
    EXPECT_EQ(world().broadcast(mine, root), std::string(size_t(10 + root), char('a' + root)));
  }
}

TEST(Communicator, BroadcastsTogether) {
  std::vector<std::vector<int>> values;
  for (int i = 0; i < 7; ++i) values.emplace_back(size_t(10'000 * i), world().rank());
  std::vector<Travel> travels;
  for (int i = 0; i < 7; ++i) {
    travels.push_back(world().start_broadcast(std::as_writable_bytes(std::span(values[size_t(i)])),
                                              i % world().size()));
  }
  travels.clear();
  for (int i = 0; i < 7; ++i) {
    for (const int v : values[size_t(i)]) ASSERT_EQ(v, i % world().size());
  }
}

TEST(Communicator, GathersDifferentSizes) {
  const std::vector<i32> mine(size_t(3 * world().rank()), world().rank());  // the first has nothing
  const auto all = world().all_gather_values(std::span<const i32>(mine));
  ASSERT_EQ(int(all.size()), world().size());
  for (int r = 0; r < world().size(); ++r) {
    EXPECT_EQ(all[size_t(r)], std::vector<i32>(size_t(3 * r), r));
  }
}

TEST(Communicator, AnyIsTrueOnAllRanksOrNone) {
  EXPECT_TRUE(world().any(world().rank() == world().size() - 1));
  EXPECT_FALSE(world().any(false));
}

TEST(Communicator, ExchangesPairByPair) {
  const int n = world().size(), me = world().rank();
  std::vector<std::vector<std::byte>> out(static_cast<size_t>(n)), in(static_cast<size_t>(n));
  std::vector<std::span<const std::byte>> to;
  std::vector<std::span<std::byte>> from;
  for (int r = 0; r < n; ++r) {
    out[size_t(r)].assign(size_t(100 * me + r), std::byte(16 * me + r));
    in[size_t(r)].resize(size_t(100 * r + me));
    to.emplace_back(out[size_t(r)]);
    from.emplace_back(in[size_t(r)]);
  }
  world().exchange(to, from);
  for (int r = 0; r < n; ++r) {
    EXPECT_EQ(in[size_t(r)], std::vector<std::byte>(size_t(100 * r + me), std::byte(16 * r + me)));
  }
}

// Large enough that MPI asks the receiver before it sends.
TEST(Communicator, BytesTravelWhileThisThreadComputes) {
  constexpr size_t kBytes = size_t{4} << 20;
  const size_t n = size_t(world().size());
  const std::vector<std::byte> out(kBytes, std::byte(1 + world().rank()));
  std::vector<std::vector<std::byte>> in(2 * n, std::vector<std::byte>(kBytes));
  const std::vector<std::span<const std::byte>> to(n, out);
  const std::vector<std::span<std::byte>> from(in.begin(), in.end());
  Travel first = world().start_exchange(to, std::span(from).first(n));
  Travel last = world().start_exchange(to, std::span(from).last(n));
  const auto there = [&] {
    return std::ranges::all_of(in, [](const std::vector<std::byte>& bytes) {
      return *static_cast<const volatile std::byte*>(&bytes.back()) != std::byte{0};
    });
  };
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!there() && std::chrono::steady_clock::now() < deadline) {
    parallel_for(4, [](i64) { sched_yield(); });
  }
  EXPECT_TRUE(there());
  last.wait();  // in any order
  first.wait();
  for (size_t i = 0; i < in.size(); ++i) {
    EXPECT_EQ(in[i], std::vector<std::byte>(kBytes, std::byte(1 + i % n)));
  }
}

TEST(ParallelGroups, ExpertsAreSpreadOverNeighbours) {
  for (int ep = 1; ep <= world().size(); ++ep) {
    if (world().size() % ep != 0) {
      EXPECT_THROW(ParallelGroups(world(), ep), ConfigError);
      continue;
    }
    const ParallelGroups groups(world(), ep);
    EXPECT_EQ(groups.ep.size(), ep);
    EXPECT_EQ(groups.ep.rank(), world().rank() % ep);
    EXPECT_EQ(groups.expert_dp.size(), world().size() / ep);
    EXPECT_EQ(groups.expert_dp.rank(), world().rank() / ep);
    std::vector<double> firsts = {double(world().rank())};
    groups.ep.sum(std::span(firsts));
    double sum = 0;
    for (int r = 0; r < ep; ++r) sum += world().rank() / ep * ep + r;
    EXPECT_EQ(firsts[0], sum);
  }
}

}  // namespace
}  // namespace quern
