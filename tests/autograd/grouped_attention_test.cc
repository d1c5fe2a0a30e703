// SPDX-License-Identifier: MIT
// Attention of grouped heads, and rotation by halves, against plain loops in double precision.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "quern/autograd/gradcheck.h"
#include "quern/autograd/kernels/parallel.h"
#include "quern/autograd/ops/attention.h"
#include "quern/autograd/ops/grouped_query_decode.h"
#include "quern/autograd/ops/rope.h"
#include "tests/support/random_tensor.h"

namespace quern {
namespace {

using testing::random_tensor;

constexpr double kScale = 0.41;

struct Case {
  i64 batch, seq, heads, kv_heads, dim, value;
  bool packed;  // documents that begin anywhere
  std::string str() const {
    std::string s;
    for (const i64 n : {batch, seq, heads, kv_heads, dim, value, i64(packed)}) {
      s += std::to_string(n) + " ";
    }
    return s;
  }
};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const i64 seq : {1, 2, 64, 65, 130}) {
    for (const i64 kv_heads : {1, 2, 6}) {
      for (const bool packed : {false, true}) all.push_back({2, seq, 6, kv_heads, 6, 5, packed});
    }
  }
  all.push_back({1, 70, 4, 1, 64, 64, true});
  all.push_back({3, 66, 3, 3, 2, 1, false});
  return all;
}

struct Problem {
  Tensor q, k, v, first_key, dout;
};

Problem problem(const Case& c, DType dtype = DType::f64) {
  Problem p{random_tensor({c.batch, c.seq, c.heads, c.dim}, dtype, 1),
            random_tensor({c.batch, c.seq, c.kv_heads, c.dim}, dtype, 2),
            random_tensor({c.batch, c.seq, c.kv_heads, c.value}, dtype, 3),
            {},
            random_tensor({c.batch, c.seq, c.heads * c.value}, dtype, 4)};
  if (!c.packed) return p;
  p.first_key = Tensor::empty({c.batch, c.seq}, DType::i32);
  for (i64 t = 0; t < c.batch * c.seq; ++t) {
    p.first_key.data<i32>()[t] = i32((37 * t) % 101 % (t % c.seq + 1));
  }
  return p;
}

struct Result {
  Tensor out, dq, dk, dv;
};

// Each gradient is asked for `times` times over: the first overwrites, the others are added.
Result with_op(const Problem& p, int times = 1) {
  Tape tape;
  const Var q = tape.input(p.q), k = tape.input(p.k), v = tape.input(p.v);
  std::vector<Var> outs;
  for (int i = 0; i < times; ++i) {
    outs.push_back(ops::grouped_query_attention(tape, q, k, v, p.first_key, kScale));
  }
  tape.backward(outs, std::vector<Tensor>(outs.size(), p.dout));
  return {outs[0].value(), tape.grad(q), tape.grad(k), tape.grad(v)};
}

// One query of one head, by the definition; `wide` is the problem in double.
void naive_query(const Case& c, const Problem& wide, const Result& r, i64 b, i64 h, i64 i) {
  const auto token = [&](i64 j) { return b * c.seq + j; };
  const i64 kv_head = h * c.kv_heads / c.heads;
  const i64 q_at = (token(i) * c.heads + h) * c.dim, out_at = (token(i) * c.heads + h) * c.value;
  const auto k_at = [&](i64 j) { return (token(j) * c.kv_heads + kv_head) * c.dim; };
  const auto v_at = [&](i64 j) { return (token(j) * c.kv_heads + kv_head) * c.value; };
  const double *q = wide.q.data<double>() + q_at, *dout = wide.dout.data<double>() + out_at;
  const double *k = wide.k.data<double>(), *v = wide.v.data<double>();
  const i64 first = wide.first_key.defined() ? wide.first_key.data<i32>()[token(i)] : 0;
  std::vector<double> prob(size_t(i + 1), 0.0);
  double sum = 0, delta = 0;
  for (i64 j = first; j <= i; ++j) {
    double s = 0;
    for (i64 d = 0; d < c.dim; ++d) s += q[d] * k[k_at(j) + d];
    sum += prob[size_t(j)] = std::exp(kScale * s);
  }
  double* out = r.out.data<double>() + out_at;
  for (i64 j = first; j <= i; ++j) {
    prob[size_t(j)] /= sum;
    for (i64 d = 0; d < c.value; ++d) out[d] += prob[size_t(j)] * v[v_at(j) + d];
  }
  for (i64 d = 0; d < c.value; ++d) delta += dout[d] * out[d];
  for (i64 j = first; j <= i; ++j) {
    double dprob = 0;
    for (i64 d = 0; d < c.value; ++d) {
      dprob += dout[d] * v[v_at(j) + d];
      r.dv.data<double>()[v_at(j) + d] += prob[size_t(j)] * dout[d];
    }
    const double ds = kScale * prob[size_t(j)] * (dprob - delta);
    for (i64 d = 0; d < c.dim; ++d) {
      r.dq.data<double>()[q_at + d] += ds * k[k_at(j) + d];
      r.dk.data<double>()[k_at(j) + d] += ds * q[d];
    }
  }
}

Result naive(const Case& c, const Problem& p) {
  const auto wide = [](const Tensor& t) { return t.cast(DType::f64); };
  const auto zeros = [](const Tensor& t) { return Tensor::zeros(t.shape(), DType::f64); };
  const Problem w{wide(p.q), wide(p.k), wide(p.v), p.first_key, wide(p.dout)};
  const Result r{zeros(p.dout), zeros(p.q), zeros(p.k), zeros(p.v)};
  for (i64 b = 0; b < c.batch; ++b) {
    for (i64 h = 0; h < c.heads; ++h) {
      for (i64 i = 0; i < c.seq; ++i) naive_query(c, w, r, b, h, i);
    }
  }
  return r;
}

// The tolerance is relative to the largest expected element.
void expect_near(const Tensor& actual, const Tensor& expected, double times, double tolerance,
                 const std::string& what) {
  const Tensor wide = actual.cast(DType::f64);
  double largest = 1;
  for (const double x : expected.span<double>()) largest = std::max(largest, std::abs(x));
  for (i64 i = 0; i < expected.numel(); ++i) {
    const double want = times * expected.data<double>()[i], got = wide.data<double>()[i];
    ASSERT_LE(std::abs(got - want), times * largest * tolerance)
        << what << "[" << i << "]: expected " << want << ", got " << got;
  }
}

bool same_bits(const Tensor& a, const Tensor& b) {
  return std::ranges::equal(a.bytes(), b.bytes());
}

class GroupedAttentionReference : public ::testing::TestWithParam<DType> {};

TEST_P(GroupedAttentionReference, OutputAndGradients) {
  const double epsilon = GetParam() == DType::f32 ? std::numeric_limits<float>::epsilon()
                                                  : std::numeric_limits<double>::epsilon();
  for (const Case& c : cases()) {
    const Problem p = problem(c, GetParam());
    const Result expected = naive(c, p);
    const double tolerance = epsilon * 2 * double(c.dim + c.value + 8);
    for (const int times : {1, 2}) {
      const Result actual = with_op(p, times);
      expect_near(actual.out, expected.out, 1, tolerance, "out of " + c.str());
      expect_near(actual.dq, expected.dq, times, tolerance, "dq of " + c.str());
      expect_near(actual.dk, expected.dk, times, tolerance, "dk of " + c.str());
      expect_near(actual.dv, expected.dv, times, tolerance, "dv of " + c.str());
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, GroupedAttentionReference,
                         ::testing::Values(DType::f32, DType::f64),
                         [](const auto& info) { return name_of(info.param); });

TEST(GroupedAttention, SameBitsForAnyNumberOfThreads) {
  const int threads = num_threads();
  const Problem p = problem({3, 150, 6, 2, 16, 16, true}, DType::f32);
  set_num_threads(1);
  const Result one = with_op(p);
  set_num_threads(3);
  const Result many = with_op(p);
  set_num_threads(threads);
  EXPECT_TRUE(same_bits(one.out, many.out) && same_bits(one.dq, many.dq));
  EXPECT_TRUE(same_bits(one.dk, many.dk) && same_bits(one.dv, many.dv));
}

// With a key head for each query head and keys that lie as those of MLA do, it is MLA without a
// rotary part: the same kernel, the same bits.
TEST(GroupedAttention, IsMlaWithoutItsRotaryPart) {
  const Case c{2, 70, 3, 3, 6, 5, true};
  const Problem p = problem(c, DType::f32);
  const Tensor kv = Tensor::empty({c.batch, c.seq, c.heads, c.dim + c.value}, DType::f32);
  for (i64 row = 0; row < c.batch * c.seq * c.heads; ++row) {
    float* to = kv.data<float>() + row * (c.dim + c.value);
    std::copy_n(p.k.data<float>() + row * c.dim, c.dim, to);
    std::copy_n(p.v.data<float>() + row * c.value, c.value, to + c.dim);
  }
  Tape tape;
  const Tensor out =
      ops::mla_attention(tape, Var(p.q), Var(kv),
                         Var(Tensor::zeros({c.batch, c.seq, 0}, DType::f32)), p.first_key, kScale)
          .value();
  EXPECT_TRUE(same_bits(out, with_op(p).out));
}

TEST(GroupedAttention, DecodesWhatItComputes) {
  const Case c{1, 40, 6, 2, 6, 5, false};
  const Problem p = problem(c);
  const Tensor all = with_op(p).out.reshape({c.seq, c.heads * c.value});
  const Tensor q = p.q.reshape({c.seq, c.heads, c.dim}), k = p.k.reshape({1, c.seq, 2, c.dim}),
               v = p.v.reshape({1, c.seq, 2, c.value});
  const auto decode = [&](i64 begin, i64 end) {
    ops::NewTokens at{Tensor::zeros({end - begin}, DType::i32),
                      Tensor::empty({end - begin}, DType::i32)};
    std::iota(at.positions.data<i32>(), at.positions.data<i32>() + end - begin, i32(begin));
    return ops::grouped_query_decode(q.rows(begin, end), at, k, v, kScale);
  };
  expect_near(decode(33, 40), all.rows(33, 40), 1, 1e-13, "last seven");
  expect_near(decode(9, 10), all.rows(9, 10), 1, 1e-13, "the tenth");
  const ops::NewTokens outside{Tensor::zeros({1}, DType::i32), Tensor::full({1}, DType::i32, 40)};
  EXPECT_THROW(ops::grouped_query_decode(q.rows(9, 10), outside, k, v, kScale), ShapeError);
}

TEST(GroupedAttention, RefusesWhatDoesNotFit) {
  Tape tape;
  const auto run = [&](const Shape& q, const Shape& k, const Shape& v) {
    ops::grouped_query_attention(tape, Var(random_tensor(q)), Var(random_tensor(k)),
                                 Var(random_tensor(v)), {}, kScale);
  };
  EXPECT_NO_THROW(run({2, 3, 4, 5}, {2, 3, 2, 5}, {2, 3, 2, 7}));
  EXPECT_THROW(run({2, 3, 4, 5}, {2, 3, 3, 5}, {2, 3, 3, 7}), ShapeError);
  EXPECT_THROW(run({2, 3, 4, 5}, {2, 3, 0, 5}, {2, 3, 0, 7}), ShapeError);
  EXPECT_THROW(run({2, 3, 4, 5}, {2, 3, 2, 6}, {2, 3, 2, 7}), ShapeError);
  EXPECT_THROW(run({2, 3, 4, 5}, {2, 3, 2, 5}, {2, 3, 1, 7}), ShapeError);
  EXPECT_THROW(run({2, 3, 4, 5}, {2, 4, 2, 5}, {2, 3, 2, 7}), ShapeError);
}

// Hugging Face's rotate_half: x cos + (-second half; first half) sin, the angles repeated.
TEST(Rope, ByHalvesIsRotateHalf) {
  const i64 tokens = 3, heads = 2, dim = 6, half = dim / 2;
  const Tensor x = random_tensor({tokens, heads, dim}), cos = random_tensor({9, half}),
               sin = random_tensor({9, half}, DType::f64, 2);
  const Tensor positions = Tensor::from<i32>({3}, std::vector<i32>{4, 0, 8});
  Tape tape;
  const Tensor y = ops::rope(tape, Var(x), cos, sin, positions, ops::RopePairs::halves).value();
  for (i64 t = 0; t < tokens; ++t) {
    const i64 at = positions.data<i32>()[t] * half;
    for (i64 h = 0; h < heads; ++h) {
      const double* in = x.data<double>() + (t * heads + h) * dim;
      for (i64 i = 0; i < dim; ++i) {
        const double turned = i < half ? -in[i + half] : in[i - half];
        const double expected =
            in[i] * cos.data<double>()[at + i % half] + turned * sin.data<double>()[at + i % half];
        EXPECT_NEAR(y.data<double>()[(t * heads + h) * dim + i], expected, 1e-15);
      }
    }
  }
}

TEST(Rope, GradientsByHalves) {
  const GradcheckReport report = gradcheck(
      [](Tape& t, std::vector<Var>& in) {
        return ops::rope(t, in[0], random_tensor({9, 2}), random_tensor({9, 2}, DType::f64, 2),
                         Tensor::from<i32>({4}, std::vector<i32>{0, 3, 8, 1}),
                         ops::RopePairs::halves);
      },
      {random_tensor({4, 2, 7})});
  EXPECT_LT(report.worst, 1e-6) << report.detail;
}

// The same rotation of columns in another order: (2i, 2i + 1) -> (i, i + half).
TEST(Rope, HalvesArePairsReordered) {
  const i64 dim = 8, half = dim / 2;
  const Tensor x = random_tensor({1, 1, dim}), reordered = Tensor::like(x);
  const Tensor cos = random_tensor({1, half}), sin = random_tensor({1, half}, DType::f64, 2);
  const Tensor position = Tensor::zeros({1}, DType::i32);
  const auto place = [&](i64 i) { return i % 2 == 0 ? i / 2 : half + i / 2; };
  for (i64 i = 0; i < dim; ++i) reordered.data<double>()[place(i)] = x.data<double>()[i];
  Tape tape;
  const Tensor pairs = ops::rope(tape, Var(x), cos, sin, position).value();
  const Tensor halves =
      ops::rope(tape, Var(reordered), cos, sin, position, ops::RopePairs::halves).value();
  for (i64 i = 0; i < dim; ++i) {
    EXPECT_NEAR(pairs.data<double>()[i], halves.data<double>()[place(i)], 1e-15) << i;
  }
}

}  // namespace
}  // namespace quern
