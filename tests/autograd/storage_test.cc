// SPDX-License-Identifier: MIT
// Memory: what is freed comes back, whatever the sizes; what is discarded is not held.
#include "quern/autograd/storage.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "quern/autograd/internal/arena.h"
#include "quern/autograd/ops/elementwise.h"
#include "quern/autograd/ops/layout.h"
#include "quern/autograd/ops/matmul.h"
#include "quern/autograd/ops/norm.h"
#include "quern/autograd/random.h"
#include "quern/autograd/tape.h"

namespace quern {
namespace {

constexpr std::size_t kKilo = 1024;

TEST(Arena, NeighboursJoin) {
  Arena arena;
  std::byte* const a = arena.take(100 * kKilo);
  std::byte* const b = arena.take(300 * kKilo);
  std::byte* const c = arena.take(200 * kKilo);
  std::byte* const last = arena.take(64);
  EXPECT_EQ(arena.cached(), 0u);
  arena.give_back(a, 100 * kKilo);
  arena.give_back(c, 200 * kKilo);
  arena.give_back(b, 300 * kKilo);
  EXPECT_EQ(arena.cached(), 600 * kKilo);
  EXPECT_EQ(arena.take(600 * kKilo), a);
  arena.give_back(a, 600 * kKilo);
  EXPECT_EQ(arena.take(64), a);
  EXPECT_EQ(arena.take(600 * kKilo - 64), a + 64);
  EXPECT_EQ(arena.take(64), last + 64);
}

TEST(Arena, TakesTheTightestRoom) {
  Arena arena;
  std::vector<std::byte*> blocks;
  for (std::size_t size : {300, 1, 100, 1, 200, 1}) blocks.push_back(arena.take(size * kKilo));
  arena.give_back(blocks[0], 300 * kKilo);
  arena.give_back(blocks[2], 100 * kKilo);
  arena.give_back(blocks[4], 200 * kKilo);
  EXPECT_EQ(arena.take(150 * kKilo), blocks[4]);
  EXPECT_EQ(arena.take(100 * kKilo), blocks[2]);
  EXPECT_EQ(arena.take(300 * kKilo), blocks[0]);
}

// Blocks of many sizes that come and go: none overlaps another, and all joins in the end.
TEST(Arena, BlocksDoNotOverlap) {
  Arena arena;
  const Random random(3, "arena");
  struct Taken {
    std::byte* begin;
    std::size_t size;
    int mark;
  };
  std::vector<Taken> taken;
  const auto drop = [&](std::size_t i) {
    const Taken t = taken[i];
    for (std::size_t k = 0; k < t.size; k += t.size - 1) EXPECT_EQ(int(t.begin[k]), t.mark);
    arena.give_back(t.begin, t.size);
    taken.erase(taken.begin() + std::ptrdiff_t(i));
  };
  for (std::uint64_t step = 0; step < 2000; ++step) {
    if (taken.size() > 20) drop(random.below(2 * step, taken.size()));
    const std::size_t size = 64 * (1 + random.below(2 * step + 1, 100'000));
    taken.push_back({arena.take(size), size, int(step % 100)});
    ASSERT_EQ(reinterpret_cast<std::uintptr_t>(taken.back().begin) % 64, 0u);
    std::memset(taken.back().begin, taken.back().mark, size);
  }
  while (!taken.empty()) drop(0);
  const std::size_t touched = arena.cached();
  EXPECT_LT(touched, 22 * 6'400'000u);
  arena.give_back(arena.take(touched), touched);
  EXPECT_EQ(arena.cached(), touched);
  arena.release();
  EXPECT_EQ(arena.cached(), 0u);
}

TEST(Arena, RefusesWhatTheSystemDoesNotHave) {
  EXPECT_EQ(Arena().take(std::size_t{1} << 62), nullptr);
}

TEST(Storage, DiscardedMemoryIsNotInUse) {
  const Tensor whole = Tensor::empty({1000, 100}, DType::f32), part = whole.rows(10, 20);
  const auto held = storage_stats().in_use;
  part.discard();
  EXPECT_FALSE(whole.is_held());
  EXPECT_EQ(held - storage_stats().in_use, 400'000u);
  whole.discard();  // there is nothing left
  whole.hold();
  part.hold();
  EXPECT_EQ(storage_stats().in_use, held);
  EXPECT_EQ(part.data<float>(), whole.data<float>() + 1000);
}

Tensor random_tensor(const Shape& shape, std::uint64_t seed) {
  const Tensor t = Tensor::empty(shape, DType::f32);
  fill_normal(t, Random(seed, "storage"), 1);
  return t;
}

// A norm's and a swiglu's results are computed again for the products that keep them: the same
// bits, without their memory in between.
TEST(Saved, ProductsComputeTheirInputsAgain) {
  constexpr i64 kTokens = 1000, kWidth = 128;
  Parameter gain("gain", {kWidth}, ParamKind::norm), in("in", {2 * kWidth, kWidth}, {}),
      out("out", {kWidth, kWidth}, {});
  gain.value.copy_from(random_tensor({kWidth}, 1));
  in.value.copy_from(random_tensor({2 * kWidth, kWidth}, 2));
  out.value.copy_from(random_tensor({kWidth, kWidth}, 3));
  const Tensor x = random_tensor({kTokens, kWidth}, 4);
  const auto gradients = [&](bool again, std::size_t& kept) {
    for (Parameter* p : {&gain, &in, &out}) p->clear_grad();
    Tape tape;
    const auto before = storage_stats().in_use;
    // What is reshaped is an operation's result like others, and kept.
    const auto through = [&](const Var& v) { return again ? v : ops::reshape(tape, v, v.shape()); };
    const Var y = [&] {
      const Var h = through(ops::rms_norm(tape, tape.input(x), tape.parameter(gain), 1e-6));
      const Var both = ops::linear(tape, h, tape.parameter(in));
      const Var inner = through(ops::swiglu(tape, both));
      return ops::sum(tape, ops::linear(tape, inner, tape.parameter(out)));
    }();
    kept = storage_stats().in_use - before;
    tape.backward(y);
    return std::vector<Tensor>{gain.grad.clone(), in.grad.clone(), out.grad.clone()};
  };
  std::size_t less = 0, more = 0;
  const auto a = gradients(true, less), b = gradients(false, more);
  EXPECT_EQ(more - less, 2 * kTokens * kWidth * sizeof(float));
  for (std::size_t i = 0; i < a.size(); ++i) {
    EXPECT_TRUE(std::ranges::equal(a[i].bytes(), b[i].bytes())) << i;
  }
}

}  // namespace
}  // namespace quern
