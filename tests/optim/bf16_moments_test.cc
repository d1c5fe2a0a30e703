// SPDX-License-Identifier: MIT
// AdamW with moments in bf16: what is stored is one of the two neighbours, without bias.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "quern/autograd/random.h"
#include "quern/optim/adamw.h"
#include "tests/optim/support.h"

namespace quern {
namespace {

const auto no_decay = [](const Parameter&) { return false; };

Parameter numbers(i64 n, const std::string& name = "p") {
  Parameter p(name, {n}, ParamKind::norm);
  p.grad.hold();
  *p.grad_written = true;
  return p;
}

struct Moments {
  explicit Moments(const AdamW& adamw) {
    adamw.visit([&](const Parameter&, const Tensor& first, const Tensor& second) {
      m = first;
      v = second;
    });
  }
  Tensor m, v;
};

double mean(const Tensor& t) {
  const Tensor wide = t.cast(DType::f64);
  double sum = 0;
  for (const double x : wide.span<double>()) sum += x;
  return sum / double(t.numel());
}

TEST(Bf16Moments, AreNeighboursOfWhatIsUsed) {
  Parameter exact = numbers(40000), small = numbers(40000);
  for (const Parameter* p : {&exact, &small}) fill_normal(p->grad, Random(1, "gradients"), 1);
  AdamW one({}, {&exact}, no_decay), two({.bf16_moments = true}, {&small}, no_decay);
  one.step(0.01);
  two.step(0.01);
  EXPECT_TRUE(test::same_bytes(exact.value, small.value));
  const Moments a(one), b(two);
  i64 up = 0;
  for (const auto& [full, stored] : {std::pair{a.m, b.m}, std::pair{a.v, b.v}}) {
    for (i64 i = 0; i < full.numel(); ++i) {
      const auto bits = std::bit_cast<std::uint32_t>(full.data<float>()[i]);
      const std::uint16_t got = stored.data<bf16>()[i].bits;
      ASSERT_TRUE(got == bits >> 16 || (got == (bits >> 16) + 1 && bits % 65536 != 0)) << i;
      up += got != bits >> 16;
    }
  }
  EXPECT_NEAR(double(up), 40000, 5 * std::sqrt(80000 / 4.0));  // half of them
}

// 1/8 of the way from one to the next: an eighth is rounded up, of m and of v, and not together.
TEST(Bf16Moments, AreRoundedWithoutBias) {
  constexpr i64 n = 1 << 16;
  const double x = 1 + std::ldexp(0.125, -7);
  Parameter p = numbers(n);
  AdamW adamw({.beta1 = 0, .beta2 = 0, .bf16_moments = true}, {&p}, no_decay);
  const Moments now(adamw);
  const double sigma = std::sqrt(0.125 * 0.875 / n);
  for (int step = 0; step < 3; ++step) {
    p.grad.fill(x);
    adamw.step(0);
    double m_up = 0, v_up = 0, both = 0;
    for (i64 i = 0; i < n; ++i) {
      const bool m = float(now.m.data<bf16>()[i]) > 1, v = float(now.v.data<bf16>()[i]) > 1;
      m_up += m;
      v_up += v;
      both += m && v;
    }
    EXPECT_NEAR(m_up / n, 0.125, 5 * sigma);
    const double share = std::ldexp(double(float(x) * float(x)) - 1, 7);  // of the way of v
    EXPECT_NEAR(v_up / n, share, 5 * std::sqrt(0.25 / n));
    EXPECT_NEAR(both / n, m_up * v_up / n / n, 5 * std::sqrt(0.25 / n));
  }
}

// With a beta2 of 0.999 a step takes a thousandth of v, which rounding to nearest would give back.
TEST(Bf16Moments, SmallChangesAddUp) {
  ASSERT_EQ(float(bf16(0.999f)), 1.0f);
  Parameter p = numbers(4096);
  p.grad.fill(0);
  AdamW adamw({.beta2 = 0.999, .bf16_moments = true}, {&p}, no_decay);
  const Moments now(adamw);
  now.v.fill(1);
  for (int step = 0; step < 2000; ++step) adamw.step(0);
  EXPECT_NEAR(mean(now.v), std::exp(2000 * std::log(0.999)), 0.01 * std::exp(-2));
}

// The random numbers belong to the name, the place and the step: ranks that share experts agree.
TEST(Bf16Moments, DependOnNothingBesideTheParameter) {
  Parameter stack("experts", {2, 40, 1000}, ParamKind::routed_expert);
  stack.grad.hold();
  fill_normal(stack.grad, Random(1, "gradients"), 1);
  *stack.grad_written = true;
  Parameter first = stack.slice("experts.0", 0, {40, 1000}),
            second = stack.slice("experts.1", 40000, {40, 1000});
  Parameter alone("experts.1", {40, 1000}, ParamKind::routed_expert);
  alone.grad.hold();
  alone.grad.copy_from(second.grad);
  *alone.grad_written = true;
  const AdamWOptions options{.bf16_moments = true};
  AdamW two(options, {&first, &second}, no_decay), one(options, {&alone}, no_decay);
  for (int step = 0; step < 3; ++step) {
    two.step(0.01);
    one.step(0.01);
  }
  EXPECT_TRUE(test::same_bytes(second.value, alone.value));
  std::vector<Tensor> m;
  two.visit([&](const Parameter&, const Tensor& t, const Tensor&) { m.push_back(t); });
  EXPECT_TRUE(test::same_bytes(m[1], Moments(one).m));
  EXPECT_FALSE(test::same_bytes(m[0], m[1]));
}

// Quadratic bowls of many widths, with noisy gradients that fall by orders of magnitude on the way.
struct Toy {
  explicit Toy(bool bf16_moments)
      : adamw({.beta2 = 0.999, .weight_decay = 0, .bf16_moments = bf16_moments}, {&p}, no_decay) {}

  double loss() const {
    double sum = 0;
    for (i64 i = 0; i < p.value.numel(); ++i) {
      const double off = double(p.value.data<float>()[i]) - 1;
      sum += off * off / double(p.value.numel());
    }
    return sum;
  }
  void step(int t) {
    const Random noise(std::uint64_t(t), "noise");
    for (i64 i = 0; i < p.value.numel(); ++i) {
      const double width = std::exp2(double(i % 8));
      const double off =
          double(p.value.data<float>()[i]) - 1 + 0.01 * noise.normal(std::uint64_t(i));
      p.grad.data<float>()[i] = float(off / width);
    }
    adamw.step(2e-3);
  }

  Parameter p = numbers(512);
  AdamW adamw;
};

TEST(Bf16Moments, LossFollowsThatOfFullMoments) {
  Toy full(false), small(true), nearest(false);
  const Moments moments(nearest.adamw);
  double off_by = 0;  // of rounding to nearest
  for (int t = 0; t < 1500; ++t) {
    full.step(t);
    small.step(t);
    nearest.step(t);
    for (const Tensor& x : {moments.m, moments.v}) {
      x.copy_from(x.cast(DType::bf16).cast(DType::f32));
    }
    if (t % 250 != 249) continue;
    EXPECT_NEAR(small.loss(), full.loss(), 0.05 * full.loss()) << t;
    off_by = std::max(off_by, std::abs(nearest.loss() / full.loss() - 1));
  }
  EXPECT_LT(full.loss(), 1e-5);
  EXPECT_GT(off_by, 1);
}

}  // namespace
}  // namespace quern
