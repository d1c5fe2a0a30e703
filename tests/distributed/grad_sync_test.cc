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
