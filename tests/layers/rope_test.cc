// SPDX-License-Identifier: MIT
// Rotation and YaRN against numbers worked out by hand from DeepSeek-V2's report (arXiv:2405.04434,
// section 3.1.4) and the published code.
#include "quern/layers/rope.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "quern/autograd/ops/rope.h"
#include "quern/layers/presets.h"

namespace quern {
namespace {

// Columns 2i and 2i + 1 are a pair in the published weights of MLA; columns i and i + width / 2 in
// those of Llama.
TEST(Rope, TurnsNeighbours) {
  const auto turned = [](ops::RopePairs pairs) {
    const Tensor x = Tensor::from<double>({1, 1, 4}, std::vector<double>{1, 0, 0, 0});
    const Tensor angle = Tensor::from<double>({1, 2}, std::vector<double>{0.5, 0.1});
    const Tensor c = Tensor::like(angle), s = Tensor::like(angle);
    for (i64 i = 0; i < 2; ++i) {
      c.data<double>()[i] = std::cos(angle.data<double>()[i]);
      s.data<double>()[i] = std::sin(angle.data<double>()[i]);
    }
    Tape silent(false);
    const Tensor y = ops::rope(silent, Var(x), c, s, Tensor::zeros({1}, DType::i32), pairs).value();
    return std::vector<double>(y.span<double>().begin(), y.span<double>().end());
  };
  const double c = std::cos(0.5), s = std::sin(0.5);
  EXPECT_EQ(turned(ops::RopePairs::adjacent), (std::vector<double>{c, s, 0, 0}));
  EXPECT_EQ(turned(ops::RopePairs::halves), (std::vector<double>{c, 0, s, 0}));
}

// Heads of 128 + 64, rotary base 1e4.
ModelConfig lite(double mscale, double mscale_all_dim) {
  ModelConfig c = find_preset("deepseek-v2-lite").value();
  c.rope_scaling = YarnConfig{.factor = 40, .mscale = mscale, .mscale_all_dim = mscale_all_dim};
  return c;
}

TEST(Yarn, ScalesTheSoftmaxByMscaleAllDim) {
  EXPECT_NEAR(softmax_scale(find_preset("deepseek-v2-lite").value()), 0.072169, 5e-7);
  EXPECT_NEAR(softmax_scale(lite(0.707, 0.707)), 0.114721, 5e-7);
  EXPECT_NEAR(softmax_scale(lite(1, 1)), 0.135234, 5e-7);
  EXPECT_NEAR(softmax_scale(lite(1, 0.707)), 0.114721, 5e-7);  // mscale has no part in it
  EXPECT_NEAR(softmax_scale(lite(0.707, 0.707)) / softmax_scale(lite(1, 0)), 1.58963, 5e-6);
}

// At position 0 a cosine is the factor alone.
TEST(Yarn, ScalesRotationsByTheQuotient) {
  const auto factor = [](const ModelConfig& c) {
    return RopeTable(c, 1, DType::f64).cos.data<double>()[0];
  };
  EXPECT_EQ(factor(lite(0.707, 0.707)), 1);
  EXPECT_NEAR(factor(lite(1, 0.707)), 1.36889 / 1.26080, 1e-5);
  EXPECT_NEAR(factor(lite(1, 0)), 1.36889, 5e-6);
}

// Pairs up to the 10th turn as before, from the 23rd on forty times as slowly, and between them a
// mixture: 32 and 1 turns within 4096 tokens are those of pairs 10.472 and 22.513.
TEST(Yarn, SlowsThePairsThatTurnLeast) {
  const RopeTable table(lite(0.707, 0.707), 2, DType::f64);
  ASSERT_EQ(table.cos.dim(1), 32);
  for (i64 i = 0; i < 32; ++i) {
    const double before = std::pow(1e4, -double(i) / 32);
    const double ramp = std::clamp(double(i - 10) / 13, 0.0, 1.0);
    EXPECT_NEAR(table.sin.data<double>()[32 + i], std::sin(before * (1 - ramp + ramp / 40)), 1e-15)
        << i;
  }
}

}  // namespace
}  // namespace quern
