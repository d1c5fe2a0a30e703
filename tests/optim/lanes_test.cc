// SPDX-License-Identifier: MIT
#include "quern/optim/lanes.h"

#include <gtest/gtest.h>

#include <bit>
#include <cstdint>

#include "quern/autograd/kernels/parallel.h"
#include "quern/autograd/storage.h"
#include "tests/optim/support.h"

namespace quern {
namespace {

using test::SomeParameters;

float lane_value(i64 lane, i64 element) {  // of mixed magnitude, so that order shows in the bits
  const auto h = std::uint32_t(lane * 2654435761 + element * 40503 + 12345) * 2246822519u;
  return (float(h >> 8) - 8e6f) * (h & 4 ? 1.0f : 1e-3f);
}

void produce_lane(std::vector<Parameter>& params, i64 lane) {
  for (Parameter& p : params) {
    i64 i = 0;
    p.grad.hold();
    for (float& x : p.grad.span<float>()) {
      x = lane_value(lane, i++) + (*p.grad_written ? x : 0.0f);  // as the tape does
    }
    *p.grad_written = true;
  }
}

// The definition, element by element.
float tree_sum(i64 begin, i64 end, i64 element) {
  if (end - begin == 1) return lane_value(begin, element);
  const i64 left = i64(std::bit_floor(std::uint64_t(end - begin - 1)));
  return tree_sum(begin, begin + left, element) + tree_sum(begin + left, end, element);
}

// `early`: so many gradients are said to be complete before the last lane is added.
void sum_lanes(std::vector<Parameter>& params, LaneTree& tree, i64 first_lane, size_t early = 0) {
  for (Parameter& p : params) p.clear_grad();
  for (i64 lane = 0; lane < tree.lanes(); ++lane) {
    produce_lane(params, first_lane + lane);
    for (size_t i = 0; i < early && lane + 1 == tree.lanes(); ++i) {
      tree.complete(params[i].grad_written.get());
    }
    tree.add_lane(lane);
  }
  tree.finish();
}

TEST(LaneTree, EqualsRecursiveSumBitForBit) {
  for (i64 lanes : {1, 2, 3, 4, 5, 6, 7, 8, 11, 16, 17}) {
    SomeParameters params(DType::f32);
    LaneTree tree(params.pointers(), lanes);
    for (int step = 0; step < 3; ++step) {  // later ones reuse the buffers
      sum_lanes(params.all, tree, 0, step == 1 ? 2 : 0);
      for (const Parameter& p : params.all) {
        EXPECT_TRUE(*p.grad_written);
        const auto grad = p.grad.span<float>();
        for (size_t i = 0; i < grad.size(); ++i) {
          ASSERT_EQ(grad[i], tree_sum(0, lanes, i64(i))) << lanes << " lanes, element " << i;
        }
      }
    }
  }
}

TEST(LaneTree, OrderShowsInTheBits) {  // or the test above would prove nothing
  i64 different = 0;
  for (i64 i = 0; i < 1000; ++i) {
    float serial = 0;
    for (i64 lane = 0; lane < 8; ++lane) serial += lane_value(lane, i);
    different += serial != tree_sum(0, 8, i);
  }
  EXPECT_GT(different, 100);
}

TEST(LaneTree, PartsSummedApartGiveTheSameBits) {
  for (i64 parts : {2, 4}) {
    SomeParameters whole(DType::f32), apart(DType::f32), sum(DType::f32);
    LaneTree whole_tree(whole.pointers(), 16), part_tree(apart.pointers(), 16 / parts),
        sum_tree(sum.pointers(), parts);
    sum_lanes(whole.all, whole_tree, 0);
    for (i64 part = 0; part < parts; ++part) {
      sum_lanes(apart.all, part_tree, part * 16 / parts);
      for (size_t i = 0; i < sum.all.size(); ++i) {
        sum.all[i].grad.hold();
        sum.all[i].grad.copy_from(apart.all[i].grad);
        *sum.all[i].grad_written = true;
      }
      sum_tree.add_lane(part);
    }
    sum_tree.finish();
    for (size_t i = 0; i < sum.all.size(); ++i) {
      EXPECT_TRUE(test::same_bytes(sum.all[i].grad, whole.all[i].grad)) << parts;
    }
  }
}

TEST(LaneTree, SlicesOfAStackShareTheirFlag) {
  Parameter stack("experts", {2, 3}, ParamKind::routed_expert);
  Parameter first = stack.slice("experts.0", 0, {3}), second = stack.slice("experts.1", 3, {3});
  LaneTree tree({&first, &second}, 4);
  for (i64 lane = 0; lane < 4; ++lane) {
    if (lane % 2 == 1) {  // in the other lanes nobody writes, and old contents must not count
      stack.grad.hold();
      stack.grad.fill(double(lane));
      *stack.grad_written = true;
    }
    tree.add_lane(lane);
    if (lane < 3) {
      EXPECT_FALSE(*stack.grad_written);
      stack.grad.hold();
      stack.grad.fill(1e9);
    }
  }
  tree.finish();
  EXPECT_TRUE(*stack.grad_written);
  for (float x : stack.grad.span<float>()) EXPECT_EQ(x, 4.0f);
}

TEST(LaneTree, CopiesGrowWithTheLogarithm) {
  SomeParameters params(DType::f32);
  const auto copies = [&](i64 lanes) {
    const auto before = storage_stats().in_use;
    LaneTree tree(params.pointers(), lanes);
    sum_lanes(params.all, tree, 0);
    return double(storage_stats().in_use - before) / (301 * 333 * 4);
  };
  EXPECT_EQ(copies(1), 0);  // blocks are rounded up, hence the tolerance
  EXPECT_NEAR(copies(2), 1, 0.1);
  EXPECT_NEAR(copies(16), 4, 0.4);
}

TEST(LaneTree, RefusesAnotherOrder) {
  SomeParameters params(DType::f32);
  EXPECT_THROW(LaneTree(params.pointers(), 0), ConfigError);
  LaneTree tree(params.pointers(), 2);
  EXPECT_THROW(tree.add_lane(1), Error);
  EXPECT_THROW(tree.finish(), Error);
  tree.add_lane(0);
  EXPECT_THROW(tree.add_lane(0), Error);
  tree.add_lane(1);
  EXPECT_THROW(tree.add_lane(2), Error);
  tree.finish();
}

}  // namespace
}  // namespace quern
