// SPDX-License-Identifier: MIT
#include "quern/optim/adamw.h"

#include <gtest/gtest.h>

#include <cmath>

#include "quern/autograd/kernels/parallel.h"
#include "tests/optim/support.h"

namespace quern {
namespace {

using test::SomeParameters;

bool only_matrices(const Parameter& p) { return is_decayed(p, {}); }

std::vector<double> to_doubles(const Tensor& t) {
  const Tensor wide = t.cast(DType::f64);
  return {wide.span<double>().begin(), wide.span<double>().end()};
}

// The update as the header states it, one element at a time in f64.
struct NaiveAdamW {
  AdamWOptions o;
  std::vector<double> p, m, v;
  int t = 0;

  void step(const std::vector<double>& grad, double lr, double scale, bool decayed) {
    m.resize(p.size());
    v.resize(p.size());
    ++t;
    for (size_t i = 0; i < p.size(); ++i) {
      const double g = grad[i] * scale;
      if (decayed) p[i] *= 1 - lr * o.weight_decay;
      m[i] = o.beta1 * m[i] + (1 - o.beta1) * g;
      v[i] = o.beta2 * v[i] + (1 - o.beta2) * g * g;
      p[i] -= lr / (1 - std::pow(o.beta1, t)) * m[i] /
              (std::sqrt(v[i]) / std::sqrt(1 - std::pow(o.beta2, t)) + o.eps);
    }
  }
};

// Ten steps against the naive loop. `tolerance` is absolute, on values of order 1.
void compare_with_naive(DType dtype, double tolerance) {
  const AdamWOptions options{.beta1 = 0.8, .beta2 = 0.97, .eps = 1e-6, .weight_decay = 0.3};
  SomeParameters params(dtype);
  AdamW adamw(options, params.pointers(), only_matrices);
  std::vector<NaiveAdamW> naive;
  for (const Parameter& p : params.all) naive.push_back({options, to_doubles(p.value), {}, {}});
  for (unsigned step = 0; step < 10; ++step) {
    params.fill_grads(100 * step);
    const double lr = 0.01 * (step + 1), scale = 0.7;
    for (size_t i = 0; i < params.all.size(); ++i) {
      naive[i].step(to_doubles(params.all[i].grad), lr, scale, params.all[i].name != "gain");
    }
    adamw.step(lr, scale);
  }
  EXPECT_EQ(adamw.steps(), 10);
  size_t i = 0;
  adamw.visit([&](const Parameter& p, const Tensor& m, const Tensor& v) {
    const auto got = to_doubles(p.value), got_m = to_doubles(m), got_v = to_doubles(v);
    ASSERT_EQ(p.name, params.all[i].name);
    for (size_t j = 0; j < got.size(); ++j) {
      ASSERT_NEAR(got[j], naive[i].p[j], tolerance) << p.name << " " << j;
      ASSERT_NEAR(got_m[j], naive[i].m[j], tolerance) << p.name << " " << j;
      ASSERT_NEAR(got_v[j], naive[i].v[j], tolerance) << p.name << " " << j;
    }
    ++i;
  });
  EXPECT_EQ(i, params.all.size());
}

TEST(AdamW, EqualsNaiveLoopInDouble) { compare_with_naive(DType::f64, 1e-14); }
TEST(AdamW, EqualsNaiveLoopInFloat) { compare_with_naive(DType::f32, 4e-6); }

TEST(AdamW, FirstStepByHand) {
  Parameter p("p", {1, 2}, ParamKind::head, DType::f64);
  p.value.span<double>()[0] = 1;
  p.value.span<double>()[1] = -2;
  p.grad.span<double>()[0] = 3;
  p.grad.span<double>()[1] = -0.5;
  *p.grad_written = true;
  AdamW adamw({.eps = 1e-300, .weight_decay = 0.5}, {&p}, only_matrices);
  adamw.step(0.1);  // decay by 0.05, then lr against the sign of the gradient
  EXPECT_NEAR(p.value.span<double>()[0], 0.95 - 0.1, 1e-15);
  EXPECT_NEAR(p.value.span<double>()[1], -1.9 + 0.1, 1e-15);
}

TEST(AdamW, UnwrittenGradientsAreZeroAndStillDecay) {
  Parameter stack("experts", {2, 4, 8}, ParamKind::routed_expert);
  stack.value.fill(1);
  Parameter first = stack.slice("experts.0", 0, {4, 8});
  Parameter second = stack.slice("experts.1", 32, {4, 8});
  stack.grad.fill(std::nan(""));  // left from a step before
  stack.clear_grad();
  AdamW adamw({.weight_decay = 0.5}, {&first, &second}, only_matrices);
  adamw.step(0.5);
  for (float x : stack.value.span<float>()) EXPECT_EQ(x, 0.75f);
}

TEST(AdamW, MomentsNeverBecomeSubnormal) {
  Parameter p("p", {64}, ParamKind::norm);
  AdamW adamw({}, {&p}, only_matrices);
  p.grad.fill(1e-3);
  *p.grad_written = true;
  adamw.step(0);
  p.clear_grad();
  for (int step = 0; step < 1000; ++step) adamw.step(0);
  adamw.visit([](const Parameter&, const Tensor& m, const Tensor& v) {
    for (float x : m.span<float>()) EXPECT_EQ(x, 0.0f);
    for (float x : v.span<float>()) EXPECT_TRUE(x > 0 && std::isnormal(x)) << x;
  });
}

void compare_threads(const AdamWOptions& options) {
  const int threads = num_threads();
  SomeParameters one(DType::f32), two(DType::f32);
  for (auto [params, n] : {std::pair{&one, 1}, std::pair{&two, 2}}) {
    set_num_threads(n);
    AdamW adamw(options, params->pointers(), only_matrices);
    for (unsigned step = 0; step < 3; ++step) {
      params->fill_grads(step);
      adamw.step(1e-2);
    }
  }
  set_num_threads(threads);
  for (size_t i = 0; i < one.all.size(); ++i) {
    EXPECT_TRUE(test::same_bytes(one.all[i].value, two.all[i].value));
  }
}

TEST(AdamW, SameBitsForAnyNumberOfThreads) {
  compare_threads({});
  compare_threads({.bf16_moments = true});
}

void restore_moments(const AdamWOptions& options) {
  SomeParameters a(DType::f32), b(DType::f32);
  AdamW whole(options, a.pointers(), only_matrices), before(options, b.pointers(), only_matrices);
  a.fill_grads(1), whole.step(1e-2);
  b.fill_grads(1), before.step(1e-2);
  AdamW after(options, b.pointers(), only_matrices);
  std::vector<Tensor> moments;
  before.visit([&](const Parameter&, const Tensor& m, const Tensor& v) {
    moments.insert(moments.end(), {m.clone(), v.clone()});
  });
  size_t i = 0;
  after.visit([&](const Parameter&, const Tensor& m, const Tensor& v) {
    m.copy_from(moments[i++]);
    v.copy_from(moments[i++]);
  });
  after.set_steps(before.steps());
  a.fill_grads(2), whole.step(1e-2);
  b.fill_grads(2), after.step(1e-2);
  for (size_t j = 0; j < a.all.size(); ++j) {
    EXPECT_TRUE(test::same_bytes(a.all[j].value, b.all[j].value));
  }
}

TEST(AdamW, RestoredMomentsContinueBitForBit) {
  restore_moments({});
  restore_moments({.bf16_moments = true});
}

TEST(AdamW, DecayRule) {
  const Parameter gain("g", {4}, ParamKind::norm), embedding("e", {4, 4}, ParamKind::embedding),
      head("h", {4, 4}, ParamKind::head), router("r", {4, 4}, ParamKind::router),
      expert("x", {4, 4}, ParamKind::routed_expert);
  EXPECT_FALSE(is_decayed(gain, {}));
  for (const Parameter* p : {&embedding, &head, &router, &expert}) EXPECT_TRUE(is_decayed(*p, {}));
  EXPECT_TRUE(is_decayed(gain, {.norms = false}));
  EXPECT_FALSE(is_decayed(embedding, {.embeddings = true}));
  EXPECT_TRUE(is_decayed(head, {.embeddings = true}));
  EXPECT_FALSE(is_decayed(router, {.router = true}));
  EXPECT_TRUE(is_decayed(expert, {.norms = true, .embeddings = true, .router = true}));
}

TEST(AdamW, KeepsImagesAndChangesNothingByIt) {
  SomeParameters plain(DType::f32), with_images(DType::bf16);
  AdamW one({}, plain.pointers(), only_matrices), two({}, with_images.pointers(), only_matrices);
  for (unsigned step = 0; step < 3; ++step) {
    plain.fill_grads(step);
    with_images.fill_grads(step);
    one.step(0.01, 0.5);
    two.step(0.01, 0.5);
  }
  for (size_t i = 0; i < plain.all.size(); ++i) {
    EXPECT_TRUE(test::same_bytes(plain.all[i].value, with_images.all[i].value));
    EXPECT_TRUE(
        test::same_bytes(with_images.all[i].image, with_images.all[i].value.cast(DType::bf16)));
  }
}

TEST(AdamW, RefusesWhatMakesNoSense) {
  Parameter p("p", {2}, ParamKind::norm), packed("q", {2}, ParamKind::norm);
  packed.value = packed.value.cast(DType::bf16);
  EXPECT_THROW(AdamW({.beta1 = 1}, {&p}, only_matrices), ConfigError);
  EXPECT_THROW(AdamW({.beta2 = -0.1}, {&p}, only_matrices), ConfigError);
  EXPECT_THROW(AdamW({.eps = 0}, {&p}, only_matrices), ConfigError);
  EXPECT_THROW(AdamW({.weight_decay = -1}, {&p}, only_matrices), ConfigError);
  EXPECT_THROW(AdamW({}, {&packed}, only_matrices), ShapeError);
  Parameter wide("w", {2}, ParamKind::norm, DType::f64);
  EXPECT_THROW(AdamW({.bf16_moments = true}, {&wide}, only_matrices), ShapeError);
}

}  // namespace
}  // namespace quern
