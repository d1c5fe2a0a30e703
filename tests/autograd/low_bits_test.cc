// SPDX-License-Identifier: MIT
// Numbers of few bits against their definitions.
#include "quern/autograd/ops/low_bits.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "quern/autograd/kernels/low_bits.h"
#include "tests/support/random_tensor.h"

namespace quern {
namespace {

using kernels::PackedRow;
using testing::random_tensor;

TEST(PackedRow, SaysItsBytes) {
  EXPECT_EQ((PackedRow{512, 6, 64}.bytes()), 512 * 6 / 8 + 8 * 4);  // 6.5 bits a number
  EXPECT_EQ((PackedRow{64, 4, 64}.bytes()), 32 + 4);
  EXPECT_EQ((PackedRow{7, 6, 3}.bytes()), 6 + 12);
}

// Nothing is further from its value than half a step, and a step is little more than the range
// over the number of steps; ends of a range are reached.
TEST(PackedRow, RoundsToTheNearestStep) {
  for (const i64 bits : {4, 6, 8}) {
    for (const i64 group : {1, 3, 16, 100}) {
      const PackedRow form{37, bits, group};
      const Tensor x = random_tensor({5, form.width}, DType::f64, std::uint64_t(bits));
      const Tensor y = ops::packed_and_unpacked(x, bits, group);
      for (i64 r = 0; r < 5; ++r) {
        for (i64 begin = 0; begin < form.width; begin += group) {
          const i64 end = std::min(begin + group, form.width);
          const double* in = x.data<double>() + r * form.width;
          const double* out = y.data<double>() + r * form.width;
          const auto [low, high] = std::minmax_element(in + begin, in + end);
          // The least value is off by a bf16 rounding, and the step as well.
          const double slack = (std::abs(*low) + *high - *low) / 128;
          const double step = (*high - *low + slack) / double((1 << bits) - 1) * (1 + 1.0 / 128);
          for (i64 i = begin; i < end; ++i) {
            EXPECT_LE(std::abs(in[i] - out[i]), group == 1 ? slack : step / 2) << bits << " " << i;
          }
        }
      }
    }
  }
}

TEST(PackedRow, KeepsWhatIsOnTheGridAndTellsOfWhatIsNotANumber) {
  const std::vector<float> on_grid = {-1.0f, -0.5f, 6.5f, 2.0f, 3.0f, 3.0f, 3.0f, 3.0f};
  const PackedRow form{8, 4, 4};
  std::vector<std::uint8_t> packed(size_t(form.bytes()));
  std::vector<float> back(8);
  kernels::pack(form, on_grid.data(), packed.data());
  kernels::unpack(form, packed.data(), back.data());
  EXPECT_EQ(back, on_grid);
  std::vector<float> bad = on_grid;
  bad[2] = std::numeric_limits<float>::infinity();
  kernels::pack(form, bad.data(), packed.data());
  kernels::unpack(form, packed.data(), back.data());
  for (size_t i = 0; i < 4; ++i) EXPECT_TRUE(std::isnan(back[i]));
  EXPECT_EQ(back[5], 3.0f);
}

TEST(PackedRow, RoundingTwiceIsRoundingOnce) {
  const Tensor x = random_tensor({4, 40}, DType::f32);
  const Tensor once = ops::packed_and_unpacked(x, 8, 16);
  const Tensor twice = ops::packed_and_unpacked(once, 8, 16);
  double worst = 0;
  for (i64 i = 0; i < x.numel(); ++i) {
    worst = std::max(worst, std::abs(double(once.data<float>()[i] - twice.data<float>()[i])));
  }
  EXPECT_LT(worst, 0.03);
}

// All 126 magnitudes of E4M3, by their definition; each is its own rounding, and the middle of two
// goes to the one whose last bit is 0.
TEST(E4m3, HasTheNumbersOfItsDefinition) {
  std::vector<double> magnitudes;
  for (int e = 0; e < 16; ++e) {
    for (int m = 0; m < 8; ++m) {
      if (e == 15 && m == 7) continue;  // NaN
      magnitudes.push_back(e == 0 ? std::ldexp(m, -9) : std::ldexp(8 + m, e - 10));
    }
  }
  ASSERT_EQ(magnitudes.back(), 448);
  std::vector<double> x, expected;
  for (size_t i = 0; i < magnitudes.size(); ++i) {
    x.push_back(magnitudes[i]);
    expected.push_back(magnitudes[i]);
    if (i + 1 == magnitudes.size()) continue;
    x.push_back(-(magnitudes[i] + magnitudes[i + 1]) / 2);
    expected.push_back(-magnitudes[i % 2 == 0 ? i : i + 1]);
  }
  std::vector<double> y(x.size());
  const i64 n = i64(x.size());
  kernels::round_to_e4m3<double>({1, n, 1, n, x.data(), y.data()});
  EXPECT_EQ(y, expected);
}

// A block's largest magnitude sets its scale, a power of two, and other blocks do not.
TEST(E4m3, ScalesBlocks) {
  const std::vector<float> x = {448 * 64.0f, 65.0f, 1e-3f, 1.5e-3f, 0, 0};
  std::vector<float> y(6);
  kernels::round_to_e4m3<float>({1, 6, 1, 2, x.data(), y.data()});
  EXPECT_EQ(y[0], 448 * 64.0f);
  EXPECT_EQ(y[1], 64.0f);
  EXPECT_NEAR(y[2], 1e-3, 1e-3 / 16);
  EXPECT_EQ(y[4], 0.0f);
  const Tensor m = random_tensor({2, 5, 7}, DType::f64);
  const Tensor blocks = ops::through_e4m3(m, 3, 4);
  for (i64 i = 0; i < m.numel(); ++i) {
    EXPECT_NEAR(blocks.data<double>()[i], m.data<double>()[i],
                std::abs(m.data<double>()[i]) / 16 + 1e-2);
  }
}

TEST(StraightThrough, PassesTheGradientOn) {
  Tape tape;
  const Var x = tape.input(random_tensor({3, 8}, DType::f32));
  const Var y = ops::straight_through(tape, x, ops::packed_and_unpacked(x.value(), 4, 8));
  const Tensor dy = random_tensor({3, 8}, DType::f32, 2);
  tape.backward(std::span(&y, 1), std::span(&dy, 1));
  for (i64 i = 0; i < 24; ++i) EXPECT_EQ(tape.grad(x).data<float>()[i], dy.data<float>()[i]);
}

TEST(E4m3, RoundsTheGradientWhereItIsAskedTo) {
  Tape tape;
  const Var x = tape.input(random_tensor({3, 8}, DType::f64)), y = ops::e4m3_gradient(tape, x);
  const Tensor dy = random_tensor({3, 8}, DType::f64, 2), rounded = ops::through_e4m3(dy, 1, 128);
  tape.backward(std::span(&y, 1), std::span(&dy, 1));
  bool changed = false;
  for (i64 i = 0; i < 24; ++i) {
    EXPECT_EQ(y.value().data<double>()[i], x.value().data<double>()[i]);
    EXPECT_EQ(tape.grad(x).data<double>()[i], rounded.data<double>()[i]);
    changed = changed || rounded.data<double>()[i] != dy.data<double>()[i];
  }
  EXPECT_TRUE(changed);
}

}  // namespace
}  // namespace quern
