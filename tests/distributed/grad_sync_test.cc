// SPDX-License-Identifier: MIT
// Sums over ranks, and that they have the bits of a sum over lanes.
#include "quern/distributed/grad_sync.h"

#include <gtest/gtest.h>

#include "quern/autograd/random.h"
#include "quern/optim/lanes.h"
#include "tests/support/ranks.h"

namespace quern {
namespace {

using testing::world;

void fill(const Parameter& p, i64 lane) {
  p.grad.hold();
  fill_normal(p.grad, Random(7, p.name + std::to_string(lane)), 1);
  *p.grad_written = true;
}

// What one rank makes of all lanes, and what all make of theirs.
void compare(i64 lanes_each, DType dtype) {
  const i64 all_lanes = lanes_each * world().size();
  std::vector<Parameter> alone, shared;
  std::vector<Parameter*> a, s;
  for (const i64 size : {1, 2, 3, 7, 1000, 100'001}) {
    const Parameter p("p" + std::to_string(size), {size}, ParamKind::norm, dtype);
    alone.push_back(p);
    shared.emplace_back(p.name, Shape{size}, ParamKind::norm, dtype);
  }
  for (size_t i = 0; i < alone.size(); ++i) {
    a.push_back(&alone[i]);
    s.push_back(&shared[i]);
  }
  LaneTree whole(a, all_lanes), part(s, lanes_each);
  for (i64 lane = 0; lane < all_lanes; ++lane) {
    for (Parameter* p : a) fill(*p, lane);
    whole.add_lane(lane);
  }
  whole.finish();
  for (i64 own = 0; own < lanes_each; ++own) {
    for (Parameter* p : s) fill(*p, world().rank() * lanes_each + own);
    part.add_lane(own);
  }
  part.finish();
  sum_gradients(s, world());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_TRUE(*s[i]->grad_written);
    const auto want = a[i]->grad.bytes(), got = s[i]->grad.bytes();
    EXPECT_TRUE(std::equal(want.begin(), want.end(), got.begin())) << a[i]->name;
  }
}

TEST(SumGradients, HasTheBitsOfASumOverLanes) {
  compare(1, DType::f32);  // for any number of ranks
  compare(1, DType::f64);
  if ((world().size() & (world().size() - 1)) != 0) return;
  compare(2, DType::f32);
  compare(4, DType::f32);
}

TEST(SumGradients, WhatNobodyWroteIsZero) {
  Parameter p("p", {5}, ParamKind::norm, DType::f32);
  p.grad.fill(3);
  *p.grad_written = world().rank() == world().size() - 1;
  Parameter* list[] = {&p};
  sum_gradients(list, world());
  for (const float g : p.grad.span<float>()) EXPECT_EQ(g, 3);
}

// A stack whose slices nobody wrote on some ranks, larger than a bucket, between others, and told
// of in an order of each rank's own.
TEST(GradientSums, AreThoseOfSumGradientsInWhateverOrderGradientsAreComplete) {
  constexpr i64 kSlice = i64{3} << 20;
  std::vector<Parameter> first, second;
  for (std::vector<Parameter>* all : {&first, &second}) {
    const Parameter stack("stack", {2, kSlice}, ParamKind::routed_expert, DType::f32);
    const Parameter other("other", {2, 50}, ParamKind::routed_expert, DType::f32);
    all->emplace_back("before", Shape{1000}, ParamKind::norm, DType::f32);
    for (const i64 i : {0, 1}) {
      all->push_back(stack.slice("stack" + std::to_string(i), i * kSlice, {kSlice}));
      all->push_back(other.slice("other" + std::to_string(i), i * 50, {50}));
    }
    all->emplace_back("after", Shape{3}, ParamKind::norm, DType::f32);
    for (const Parameter& p : *all) {
      if (p.name[0] != 's' || world().rank() == 0) fill(p, world().rank());
    }
  }
  std::vector<Parameter*> a, b;
  for (size_t i = 0; i < first.size(); ++i) {
    a.push_back(&first[i]);
    b.push_back(&second[i]);
  }
  sum_gradients(a, world());
  GradientSums sums(b, world());
  const size_t turn = size_t(world().rank());
  for (const size_t i : {turn % 4, (turn + 2) % 4}) {  // 0: before, 1: stack, 2: other, 3: after
    sums.complete(second[i == 3 ? 5 : i].grad_written.get());
  }
  sums.finish();
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_TRUE(*b[i]->grad_written);
    const auto want = a[i]->grad.bytes(), got = b[i]->grad.bytes();
    EXPECT_TRUE(std::equal(want.begin(), want.end(), got.begin())) << a[i]->name;
  }
}

// More than a bucket holds.
TEST(SumGradients, CutsLargeOnesIntoBuckets) {
  Parameter p("p", {(i64{4} << 20) + 5}, ParamKind::norm, DType::f32);
  p.grad.fill(world().rank() + 1);
  *p.grad_written = true;
  Parameter* list[] = {&p};
  sum_gradients(list, world());
  const float sum = float(world().size() * (world().size() + 1) / 2);
  for (const i64 i : {i64{0}, i64{4} << 20, p.grad.numel() - 1}) {
    EXPECT_EQ(p.grad.data<float>()[i], sum);
  }
}

}  // namespace
}  // namespace quern
