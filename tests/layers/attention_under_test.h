// SPDX-License-Identifier: MIT
// One attention layer in double with random weights, over whole sequences.
#pragma once

#include <gtest/gtest.h>

#include "quern/autograd/gradcheck.h"
#include "tests/support/toy_model.h"

namespace quern::testing {

template <class Layer>
struct AttentionUnderTest {
  AttentionUnderTest(const ModelConfig& c, i64 batch, i64 seq)
      : config(c), layer(c, "attn", DType::f64), context(context_for(c, batch, seq)) {
    randomise(layer);
  }
  Tensor run(const Tensor& x) const {
    Tape silent(false);
    return layer.forward(silent, Var(x), context).value();
  }
  ModelConfig config;
  Layer layer;
  AttentionContext context;
};

template <class Layer>
void expect_right_gradients(AttentionUnderTest<Layer> a) {
  const i64 tokens = a.context.batch * a.context.seq;
  const Tensor x = random_tensor({tokens, a.config.hidden_size});
  const GradcheckReport inputs = gradcheck(
      [&](Tape& tape, std::vector<Var>& in) { return a.layer.forward(tape, in[0], a.context); },
      {x});
  EXPECT_LT(inputs.worst, 1e-6) << inputs.detail;
  const GradcheckReport weights = gradcheck_parameters(
      [&](Tape& tape) { return weighted_sum(tape, a.layer.forward(tape, Var(x), a.context)); },
      parameters_of(a.layer), 3);
  EXPECT_LT(weights.worst, 1e-6) << weights.detail;
}

}  // namespace quern::testing
