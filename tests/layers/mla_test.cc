// SPDX-License-Identifier: MIT
#include "quern/layers/mla.h"

#include <gtest/gtest.h>

#include "tests/layers/attention_under_test.h"

namespace quern {
namespace {

using namespace testing;

using Attention = AttentionUnderTest<Mla>;

TEST(Mla, GradientsWithPlainQueries) { expect_right_gradients(Attention(toy_config(), 2, 5)); }

TEST(Mla, GradientsWithCompressedQueries) {
  expect_right_gradients(Attention(with_q_lora(toy_config()), 2, 5));
}

TEST(Mla, GradientsWithYarn) { expect_right_gradients(Attention(with_yarn(toy_config()), 1, 9)); }

TEST(Mla, GradientsWithPackedDocuments) {
  Attention a(with_q_lora(toy_config()), 2, 6);
  a.context.first_key = Tensor::zeros({2, 6}, DType::i32);
  for (i64 t = 2; t < 6; ++t) a.context.first_key.data<i32>()[t] = 2;
  for (i64 t = 5; t < 6; ++t) a.context.first_key.data<i32>()[6 + t] = 5;
  expect_right_gradients(a);
}

TEST(Mla, LooksAtThePastOnly) {
  const Attention a(toy_config(), 1, 7);
  const Tensor x = random_tensor({7, a.config.hidden_size}), changed = x.clone();
  for (double& v : changed.rows(4, 5).span<double>()) v += 1;
  const Tensor before = a.run(x), after = a.run(changed);
  EXPECT_EQ(largest_difference(before.rows(0, 4), after.rows(0, 4)), 0);
  for (i64 t = 4; t < 7; ++t) {
    EXPECT_GT(largest_difference(before.rows(t, t + 1), after.rows(t, t + 1)), 1e-3) << t;
  }
}

TEST(Mla, SequencesDoNotMix) {
  const Attention pair(with_yarn(with_q_lora(toy_config())), 2, 6);
  const Attention alone(pair.config, 1, 6);
  const Tensor x = random_tensor({12, pair.config.hidden_size});
  const Tensor both = pair.run(x);
  EXPECT_LT(largest_difference(both.rows(0, 6), alone.run(x.rows(0, 6))), 1e-13);
  EXPECT_LT(largest_difference(both.rows(6, 12), alone.run(x.rows(6, 12))), 1e-13);
}

TEST(Mla, DependsOnDistancesNotPositions) {
  Attention a(toy_config(), 1, 6);
  const Tensor x = random_tensor({6, a.config.hidden_size});
  const Tensor here = a.run(x);
  a.context.rope = RopeTable(a.config, 64, DType::f64);
  for (i32& p : a.context.positions.span<i32>()) p += 50;
  EXPECT_LT(largest_difference(here, a.run(x)), 1e-12);
  for (i32& p : a.context.positions.span<i32>()) p = 2 * p - 50;  // twice the distances
  EXPECT_GT(largest_difference(here, a.run(x)), 1e-4);
}

}  // namespace
}  // namespace quern
