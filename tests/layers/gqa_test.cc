// SPDX-License-Identifier: MIT
#include "quern/layers/gqa.h"

#include <gtest/gtest.h>

#include "tests/layers/attention_under_test.h"

namespace quern {
namespace {

using namespace testing;

// Four heads of 6 columns that share keys in pairs.
ModelConfig grouped() { return with_attention(toy_config(), "gqa"); }

using Attention = AttentionUnderTest<Gqa>;

TEST(Gqa, Gradients) {
  for (const char* kind : {"mha", "gqa", "mqa"}) {
    expect_right_gradients(Attention(with_attention(toy_config(), kind), 2, 5));
  }
}

TEST(Gqa, GradientsWithYarn) { expect_right_gradients(Attention(with_yarn(grouped()), 1, 9)); }

TEST(Gqa, GradientsWithPackedDocuments) {
  Attention a(grouped(), 2, 6);
  a.context.first_key = Tensor::zeros({2, 6}, DType::i32);
  for (i64 t = 2; t < 6; ++t) a.context.first_key.data<i32>()[t] = 2;
  for (i64 t = 5; t < 6; ++t) a.context.first_key.data<i32>()[6 + t] = 5;
  expect_right_gradients(a);
}

// A head's columns of W x, turned by t * theta^(-2i / dim) in the pairs (i, i + dim / 2).
std::vector<double> turned(const Attention& a, const Linear& projection, const Tensor& x, i64 t,
                           i64 head) {
  const i64 dim = a.layer.head_dim, hidden = a.config.hidden_size, half = dim / 2;
  std::vector<double> plain(size_t(dim), 0.0), result(size_t(dim), 0.0);
  for (i64 d = 0; d < dim; ++d) {
    for (i64 i = 0; i < hidden; ++i) {
      plain[size_t(d)] += projection.weight.value.data<double>()[(head * dim + d) * hidden + i] *
                          x.data<double>()[t * hidden + i];
    }
  }
  for (i64 i = 0; i < half; ++i) {
    const double angle = double(t) * std::pow(a.config.rope_theta, -2.0 * double(i) / double(dim));
    const double u = plain[size_t(i)], v = plain[size_t(i + half)];
    result[size_t(i)] = u * std::cos(angle) - v * std::sin(angle);
    result[size_t(i + half)] = u * std::sin(angle) + v * std::cos(angle);
  }
  return result;
}

// What heads, in order, mix of the values, before o_proj: written down from the definition.
std::vector<double> naive_row(const Attention& a, const Tensor& x, i64 t) {
  const i64 dim = a.layer.head_dim, hidden = a.config.hidden_size;
  std::vector<double> row;
  for (i64 h = 0; h < a.layer.heads; ++h) {
    const i64 kv_head = h / (a.layer.heads / a.layer.kv_heads);
    const std::vector<double> q = turned(a, a.layer.q_proj, x, t, h);
    std::vector<double> p, mix(size_t(dim), 0.0);
    double sum = 0;
    for (i64 j = 0; j <= t; ++j) {
      const std::vector<double> k = turned(a, a.layer.k_proj, x, j, kv_head);
      double score = 0;
      for (i64 d = 0; d < dim; ++d) score += q[size_t(d)] * k[size_t(d)];
      sum += p.emplace_back(std::exp(score / std::sqrt(double(dim))));
    }
    for (i64 j = 0; j <= t; ++j) {
      for (i64 d = 0; d < dim; ++d) {
        double v = 0;
        for (i64 i = 0; i < hidden; ++i) {
          v += a.layer.v_proj.weight.value.data<double>()[(kv_head * dim + d) * hidden + i] *
               x.data<double>()[j * hidden + i];
        }
        mix[size_t(d)] += p[size_t(j)] / sum * v;
      }
    }
    row.insert(row.end(), mix.begin(), mix.end());
  }
  return row;
}

TEST(Gqa, IsItsDefinition) {
  for (const char* kind : {"mha", "gqa", "mqa"}) {
    const i64 seq = 7;
    const Attention a(with_attention(toy_config(), kind), 1, seq);
    const Tensor x = random_tensor({seq, a.config.hidden_size});
    const Tensor y = a.run(x);
    const i64 width = a.layer.heads * a.layer.head_dim;
    for (i64 t = 0; t < seq; ++t) {
      const std::vector<double> mixed = naive_row(a, x, t);
      for (i64 o = 0; o < a.config.hidden_size; ++o) {
        double expected = 0;
        for (i64 i = 0; i < width; ++i) {
          expected += a.layer.o_proj.weight.value.data<double>()[o * width + i] * mixed[size_t(i)];
        }
        EXPECT_NEAR(y.data<double>()[t * a.config.hidden_size + o], expected, 1e-13) << kind;
      }
    }
  }
}

// With as many heads of keys as of queries, and with one, it is the other kinds bit for bit.
TEST(Gqa, MeetsTheOtherKindsAtBothEnds) {
  for (const auto& [kind, kv_heads] : {std::pair{"mha", i64(4)}, std::pair{"mqa", i64(1)}}) {
    ModelConfig c = grouped();
    c.num_key_value_heads = kv_heads;
    const Tensor x = random_tensor({9, c.hidden_size});
    const Tensor as_gqa = Attention(c, 1, 9).run(x);
    EXPECT_TRUE(same_bits(as_gqa, Attention(with_attention(c, kind), 1, 9).run(x))) << kind;
  }
}

// Keys and values given to each head by name are those that a group shares.
TEST(Gqa, IsMhaWithRepeatedKeys) {
  const Attention shared(grouped(), 2, 5);
  Attention repeated(with_attention(toy_config(), "mha"), 2, 5);
  const i64 dim = shared.layer.head_dim;
  for (const auto& [from, to] : {std::pair{&shared.layer.k_proj, &repeated.layer.k_proj},
                                 std::pair{&shared.layer.v_proj, &repeated.layer.v_proj}}) {
    for (i64 h = 0; h < 4; ++h) {
      to->weight.value.rows(h * dim, (h + 1) * dim)
          .copy_from(from->weight.value.rows(h / 2 * dim, (h / 2 + 1) * dim));
    }
  }
  const Tensor x = random_tensor({10, shared.config.hidden_size});
  EXPECT_LT(largest_difference(shared.run(x), repeated.run(x)), 1e-13);
}

TEST(Gqa, LooksAtThePastOnly) {
  const Attention a(grouped(), 1, 7);
  const Tensor x = random_tensor({7, a.config.hidden_size}), changed = x.clone();
  for (double& v : changed.rows(4, 5).span<double>()) v += 1;
  const Tensor before = a.run(x), after = a.run(changed);
  EXPECT_EQ(largest_difference(before.rows(0, 4), after.rows(0, 4)), 0);
  for (i64 t = 4; t < 7; ++t) {
    EXPECT_GT(largest_difference(before.rows(t, t + 1), after.rows(t, t + 1)), 1e-3) << t;
  }
}

TEST(Gqa, DependsOnDistancesNotPositions) {
  Attention a(grouped(), 1, 6);
  const Tensor x = random_tensor({6, a.config.hidden_size});
  const Tensor here = a.run(x);
  a.context.rope = RopeTable(a.config, 64, DType::f64);
  for (i32& p : a.context.positions.span<i32>()) p += 50;
  EXPECT_LT(largest_difference(here, a.run(x)), 1e-12);
  for (i32& p : a.context.positions.span<i32>()) p = 2 * p - 50;  // twice the distances
  EXPECT_GT(largest_difference(here, a.run(x)), 1e-4);
}

TEST(Gqa, HeadsHaveTheWidthTheyAreGiven) {
  ModelConfig c = grouped();
  EXPECT_EQ(Gqa(c, "a", DType::f32).head_dim, 6);
  c.head_dim = 0;
  EXPECT_EQ(Gqa(c, "a", DType::f32).head_dim, 5);  // hidden_size / heads
}

}  // namespace
}  // namespace quern
