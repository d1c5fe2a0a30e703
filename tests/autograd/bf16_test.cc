// SPDX-License-Identifier: MIT
// Operations whose operands are rounded to bf16: against sums of the rounded operands in double.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "quern/autograd/ops/attention.h"
#include "quern/autograd/ops/elementwise.h"
#include "quern/autograd/ops/loss.h"
#include "quern/autograd/ops/matmul.h"
#include "quern/autograd/ops/norm.h"
#include "quern/autograd/ops/rows.h"
#include "tests/support/distance.h"
#include "tests/support/random_tensor.h"

namespace quern {
namespace {

using testing::random_tensor;
using testing::relative_distance;

Parameter random_parameter(const Shape& shape, DType dtype, std::uint64_t seed) {
  Parameter p("w", shape, ParamKind::head, dtype);
  p.value.copy_from(random_tensor(shape, DType::f32, seed));
  p.round_image();
  return p;
}

// x as products read it, in double.
Tensor rounded(const Tensor& x, DType dtype = DType::bf16) {
  return x.cast(dtype).cast(DType::f64);
}

// Sum over k of a[i, k] b[k, j], strides given, and what an f32 sum of exact products may be off.
struct Product {
  i64 k;
  const double *a, *b;
  i64 a_row, a_step, b_column, b_step;
};
void expect_product(const Product& p, const Tensor& c) {
  const i64 m = c.dim(0), n = c.dim(1);
  for (i64 i = 0; i < m; ++i) {
    for (i64 j = 0; j < n; ++j) {
      double sum = 0, size = 0;
      for (i64 k = 0; k < p.k; ++k) {
        const double product = p.a[i * p.a_row + k * p.a_step] * p.b[j * p.b_column + k * p.b_step];
        sum += product;
        size += std::abs(product);
      }
      const double allowed = 6e-8 * double(p.k + 1) * size + 1e-30;
      ASSERT_NEAR(double(c.data<float>()[i * n + j]), sum, allowed) << i << ", " << j;
    }
  }
}

// Sizes around those of tiles, vectors, pairs and slices.
struct Sizes {
  i64 tokens, in, out;
};
class Bf16Linear : public ::testing::TestWithParam<Sizes> {};

void expect_linear(DType dtype, i64 tokens, i64 in, i64 out) {
  Parameter w = random_parameter({out, in}, dtype, 2);
  const Tensor x = random_tensor({tokens, in}, DType::f32, 1);
  const Tensor dy = random_tensor({tokens, out}, DType::f32, 3);
  Tape tape;
  const Var input = tape.input(x);
  const Var y = ops::linear(tape, input, tape.parameter(w));
  ASSERT_EQ(y.dtype(), DType::f32);
  tape.backward(std::span(&y, 1), std::span(&dy, 1));
  const Tensor a = rounded(x, dtype), b = rounded(w.value, dtype), g = rounded(dy, dtype);
  expect_product({in, a.data<double>(), b.data<double>(), in, 1, in, 1}, y.value());
  expect_product({out, g.data<double>(), b.data<double>(), out, 1, 1, in}, tape.grad(input));
  expect_product({tokens, g.data<double>(), a.data<double>(), 1, out, 1, in}, w.grad);
}

TEST_P(Bf16Linear, MultipliesRoundedOperandsAndSumsInSingle) {
  const auto [tokens, in, out] = GetParam();
  expect_linear(DType::bf16, tokens, in, out);
  expect_linear(DType::f32, tokens, in, out);
}

INSTANTIATE_TEST_SUITE_P(Shapes, Bf16Linear,
                         ::testing::Values(Sizes{1, 1, 1}, Sizes{1, 2, 3}, Sizes{13, 15, 33},
                                           Sizes{14, 16, 32}, Sizes{15, 17, 31}, Sizes{3, 31, 1},
                                           Sizes{29, 33, 65}, Sizes{5, 513, 34}, Sizes{43, 1025, 7},
                                           Sizes{2, 64, 1030}));

TEST(Bf16, GroupedLinearMultipliesEachGroupByItsMatrix) {
  const i64 in = 19, out = 35;
  const auto offsets = std::make_shared<std::vector<i64>>(std::vector<i64>{0, 3, 3, 20, 37});
  Parameter w = random_parameter({4, out, in}, DType::bf16, 2);
  const Tensor x = random_tensor({37, in}, DType::f32, 1);
  const Tensor dy = random_tensor({37, out}, DType::f32, 3);
  Tape tape;
  const Var input = tape.input(x);
  const Var y = ops::grouped_linear(tape, input, tape.parameter(w), offsets);
  tape.backward(std::span(&y, 1), std::span(&dy, 1));
  const Tensor a = rounded(x), b = rounded(w.value), g = rounded(dy);
  for (size_t e = 0; e < 4; ++e) {
    const i64 begin = (*offsets)[e], end = (*offsets)[e + 1];
    const double* matrix = b.data<double>() + i64(e) * out * in;
    const double *rows = a.data<double>() + begin * in, *drows = g.data<double>() + begin * out;
    expect_product({in, rows, matrix, in, 1, in, 1}, y.value().rows(begin, end));
    expect_product({out, drows, matrix, out, 1, 1, in}, tape.grad(input).rows(begin, end));
    expect_product({end - begin, drows, rows, 1, out, 1, in},
                   w.grad.rows(i64(e), i64(e) + 1).reshape({out, in}));
  }
}

TEST(Bf16, AWeightWithoutImageMultipliesRoundedInputsInSingle) {
  Parameter w = random_parameter({6, 21}, DType::f32, 2);
  const Tensor x = random_tensor({17, 21}, DType::f32, 1).cast(DType::bf16);
  const Tensor dy = random_tensor({17, 6}, DType::f32, 3);
  Tape tape;
  const Var input = tape.input(x);
  const Var y = ops::linear(tape, input, tape.parameter(w));
  tape.backward(std::span(&y, 1), std::span(&dy, 1));
  const Tensor a = x.cast(DType::f64), b = w.value.cast(DType::f64), g = dy.cast(DType::f64);
  EXPECT_EQ(tape.grad(input).dtype(), DType::f32);
  expect_product({21, a.data<double>(), b.data<double>(), 21, 1, 21, 1}, y.value());
  expect_product({6, g.data<double>(), b.data<double>(), 6, 1, 1, 21}, tape.grad(input));
  expect_product({17, g.data<double>(), a.data<double>(), 1, 6, 1, 21}, w.grad);
}

void expect_rounding_of(const Tensor& y, const Tensor& exact) {
  ASSERT_EQ(y.dtype(), DType::bf16);
  const Tensor expected = exact.cast(DType::bf16);
  for (i64 i = 0; i < y.numel(); ++i) {
    ASSERT_EQ(y.data<bf16>()[i].bits, expected.data<bf16>()[i].bits) << "element " << i;
  }
}

TEST(Bf16, NormsAndActivationsRoundWhatTheyComputeInSingle) {
  const Tensor x = random_tensor({67, 300}, DType::f32, 1);
  const Tensor gain = random_tensor({300}, DType::f32, 2);
  Tape silent(false);
  expect_rounding_of(ops::rms_norm(silent, Var(x), Var(gain), 1e-6, DType::bf16).value(),
                     ops::rms_norm(silent, Var(x), Var(gain), 1e-6).value());
  expect_rounding_of(ops::swiglu(silent, Var(x), DType::bf16).value(),
                     ops::swiglu(silent, Var(x)).value());
}

TEST(Bf16, SwigluKeepsItsInputRounded) {
  const Tensor x = random_tensor({33, 530}, DType::f32, 1);
  const Tensor dy = random_tensor({33, 265}, DType::f32, 3);
  const auto gradient = [&](const Tensor& input_value, DType out) {
    Tape tape;
    const Var input = tape.input(input_value);
    const Var y = ops::swiglu(tape, input, out);
    tape.backward(std::span(&y, 1), std::span(&dy, 1));
    return tape.grad(input);
  };
  const Tensor kept = gradient(x, DType::bf16);
  const Tensor plain = gradient(x.cast(DType::bf16).cast(DType::f32), DType::f32);
  for (i64 i = 0; i < kept.numel(); ++i) {
    ASSERT_EQ(kept.data<float>()[i], plain.data<float>()[i]) << "element " << i;
  }
}

TEST(Bf16, TheHeadsGradientsAreThoseOfRoundedOperands) {
  const i64 tokens = 21, width = 18, vocab = 45;
  Parameter head = random_parameter({vocab, width}, DType::bf16, 2);
  const Tensor hidden = random_tensor({tokens, width}, DType::f32, 1);
  Tensor labels = Tensor::empty({tokens}, DType::i32);
  for (i64 t = 0; t < tokens; ++t) labels.data<i32>()[t] = t == 5 ? -100 : i32(t * 7 % vocab);
  Tape tape, exact;
  const Var x = tape.input(hidden), y = exact.input(rounded(hidden));
  const auto loss = ops::linear_cross_entropy(tape, x, tape.parameter(head), labels, 0.1).loss;
  tape.backward(loss);
  Parameter wide("w", head.value.shape(), ParamKind::head, DType::f64);
  wide.value.copy_from(rounded(head.value));
  const auto expected =
      ops::linear_cross_entropy(exact, y, exact.parameter(wide), labels, 0.1).loss;
  exact.backward(expected);
  EXPECT_NEAR(loss.item(), expected.item(), 1e-5 * expected.item());
  // What is left is the rounding of the logits' gradients: 2^-9 of each, and of a sum of them.
  const auto expect_close = [](const Tensor& g, const Tensor& wanted) {
    double difference = 0, size = 0;
    for (i64 i = 0; i < g.numel(); ++i) {
      const double w = wanted.data<double>()[i];
      difference += std::pow(double(g.data<float>()[i]) - w, 2);
      size += w * w;
    }
    EXPECT_LE(std::sqrt(difference / size), std::ldexp(1.0, -9));
  };
  expect_close(tape.grad(x), exact.grad(y));
  expect_close(head.grad, wide.grad);
}

// Attention in bf16 against that in double of the same rounded inputs: what is left is the rounding
// of probabilities and of the result, then of dout, dscores and the result's part in them, each by
// up to 2^-9.
void expect_attention(bool mla, i64 seq) {
  const i64 batch = 2, heads = 4, nope = 13, rope = 6, value = 11;
  const Shape q_shape{batch, seq, heads, nope + rope};
  const std::vector<Shape> shapes =
      mla ? std::vector<Shape>{q_shape, {batch, seq, heads, nope + value}, {batch, seq, rope}}
          : std::vector<Shape>{q_shape, {batch, seq, 2, nope + rope}, {batch, seq, 2, value}};
  Tensor first_key = Tensor::zeros({batch, seq}, DType::i32);
  for (i64 t = seq / 3; t < seq; ++t) first_key.data<i32>()[t] = i32(seq / 3);
  const Tensor dy = random_tensor({batch, seq, heads * value}, DType::f32, 9);
  const auto run = [&](bool exact) {
    std::vector<Var> in;
    std::vector<Tensor> results;
    Tape tape;
    for (size_t i = 0; i < 3; ++i) {
      const Tensor x = random_tensor(shapes[i], DType::f32, i + 1);
      in.push_back(tape.input(exact ? rounded(x) : x));
    }
    const DType type = exact ? DType::f64 : DType::bf16;
    const Var y =
        mla ? ops::mla_attention(tape, in[0], in[1], in[2], first_key, 0.3, type)
            : ops::grouped_query_attention(tape, in[0], in[1], in[2], first_key, 0.3, type);
    const Tensor seed = exact ? dy.cast(DType::f64) : dy;
    tape.backward(std::span(&y, 1), std::span(&seed, 1));
    results.push_back(y.value());
    for (const Var& x : in) results.push_back(tape.grad(x));
    return results;
  };
  const std::vector<Tensor> mixed = run(false), exact = run(true);
  EXPECT_EQ(mixed[0].dtype(), DType::bf16);
  EXPECT_LE(relative_distance(mixed[0], exact[0]), 2 * std::ldexp(1.0, -9));
  for (size_t i = 1; i < 4; ++i) {
    EXPECT_EQ(mixed[i].dtype(), DType::f32);
    EXPECT_LE(relative_distance(mixed[i], exact[i]), 4 * std::ldexp(1.0, -9)) << i;
  }
}

TEST(Bf16, AttentionRoundsItsOperandsAlone) {
  for (const i64 seq : {5, 64, 150}) {
    expect_attention(true, seq);
    expect_attention(false, seq);
  }
}

TEST(Bf16, CastingRoundsToNearestEven) {
  const float values[] = {1.0f,  1.00390625f, 1.01171875f, -1.00390625f,
                          3e38f, 3.4e38f,     1e-40f,      std::numeric_limits<float>::infinity(),
                          -0.0f};
  const Tensor x = Tensor::from<float>({9}, values), y = x.cast(DType::bf16).cast(DType::f32);
  const float expected[] = {1.0f, 1.0f, 1.015625f, -1.0f};
  for (int i = 0; i < 4; ++i) EXPECT_EQ(y.data<float>()[i], expected[i]);
  for (int i = 0; i < 9; ++i) EXPECT_EQ(y.data<float>()[i], float(bf16(values[i])));
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(std::isnan(Tensor::from<float>({1}, {&nan, 1}).cast(DType::bf16).item()));
}

}  // namespace
}  // namespace quern
