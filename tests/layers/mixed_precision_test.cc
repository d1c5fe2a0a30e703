// SPDX-License-Identifier: MIT
// A step in bf16 against one in f32.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/layers/model_step.h"

namespace quern {
namespace {

using namespace testing;

double distance(const Tensor& a, const Tensor& b) {
  const Tensor x = a.cast(DType::f64), y = b.cast(DType::f64);
  double sum = 0;
  for (i64 i = 0; i < x.numel(); ++i) sum += std::pow(x.data<double>()[i] - y.data<double>()[i], 2);
  return std::sqrt(sum);
}

double norm_of(const Tensor& t) { return distance(t, Tensor::zeros(t.shape(), t.dtype())); }

// How far gradients move when the weights alone are rounded says how sensitive they are. A step in
// bf16 rounds the activations and gradients that meet these weights too, and what attention makes
// of them: four times as far is allowed, and the half unit, 2^-9, by which a product's operand is
// off on its own.
TEST(MixedPrecision, StaysWithinItsRounding) {
  for (const ModelConfig& c : several_configs()) {
    Model exact = random_model(c, DType::f32, 0.2), mixed = random_model(c, DType::bf16, 0.2);
    Step a, b, rounded;
    std::uint64_t seed = 0;
    do {  // until a batch whose experts rounding does not change, or it would be another function
      ASSERT_LT(++seed, 20u);
      const Tensor ids = random_ids({2, 11}, c.vocab_size, seed);
      Model weights = random_model(c, DType::f32, 0.2);
      weights.visit([](Parameter& p) {
        if (p.kind == ParamKind::norm || p.kind == ParamKind::router) return;
        p.value.copy_from(p.value.cast(DType::bf16).cast(DType::f32));
      });
      a = step_of(exact, ids);
      b = step_of(mixed, ids);
      rounded = step_of(weights, ids);
    } while (a.loads != b.loads || a.loads != rounded.loads);
    EXPECT_NEAR(b.loss.item(), a.loss.item(), std::ldexp(a.loss.item(), -9));
    EXPECT_NE(b.loss.item(), a.loss.item());
    const std::vector<Parameter*> parameters = parameters_of(exact);
    for (size_t i = 0; i < parameters.size(); ++i) {
      const double allowed = 4 * distance(rounded.gradients[i], a.gradients[i]) +
                             std::ldexp(norm_of(a.gradients[i]), -9);
      EXPECT_LE(distance(b.gradients[i], a.gradients[i]), allowed) << parameters[i]->name;
    }
  }
}

}  // namespace
}  // namespace quern
