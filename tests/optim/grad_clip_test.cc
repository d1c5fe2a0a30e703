// SPDX-License-Identifier: MIT
#include "quern/optim/grad_clip.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "quern/autograd/kernels/parallel.h"
#include "tests/optim/support.h"

namespace quern {
namespace {

using test::SomeParameters;

TEST(GradClip, NormEqualsNaiveSum) {
  for (DType dtype : {DType::f32, DType::f64}) {
    SomeParameters params(dtype);
    params.fill_grads(3);
    long double sum = 0;
    for (const Parameter& p : params.all) {
      const Tensor wide = p.grad.cast(DType::f64);
      for (double x : wide.span<double>()) sum += (long double)x * x;
    }
    const double expected = double(std::sqrt(sum));
    EXPECT_NEAR(global_norm(params.pointers()), expected, 1e-14 * expected);
  }
}

TEST(GradClip, ByHand) {
  Parameter a("a", {1}, ParamKind::norm), b("b", {2, 2}, ParamKind::head, DType::f64);
  a.grad.fill(3);
  b.grad.fill(2);
  *a.grad_written = *b.grad_written = true;
  const std::vector<Parameter*> list = {&a, &b};
  EXPECT_EQ(squared_norms(list), (std::vector<double>{9, 16}));
  EXPECT_EQ(global_norm(list), 5);
  b.clear_grad();
  EXPECT_EQ(global_norm(list), 3);
  EXPECT_EQ(global_norm({}), 0);
}

TEST(GradClip, SameBitsForAnyNumberOfThreads) {
  const int threads = num_threads();
  SomeParameters params(DType::f32);
  params.fill_grads(5);
  set_num_threads(1);
  const double one = global_norm(params.pointers());
  set_num_threads(2);
  const double two = global_norm(params.pointers());
  set_num_threads(threads);
  EXPECT_EQ(one, two);
}

TEST(GradClip, NotFiniteIsSeen) {
  SomeParameters params(DType::f32);
  params.fill_grads(6);
  params.all[0].grad.span<float>()[77777] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_FALSE(std::isfinite(global_norm(params.pointers())));
}

TEST(GradClip, Scale) {
  EXPECT_EQ(clip_scale(0.5, 1), 1);
  EXPECT_EQ(clip_scale(0, 1), 1);
  EXPECT_DOUBLE_EQ(clip_scale(4, 1), 1 / 4.000001);
  EXPECT_DOUBLE_EQ(clip_scale(1, 1), 1 / 1.000001);
}

}  // namespace
}  // namespace quern
