// SPDX-License-Identifier: MIT
// Blocked attention against plain loops in double precision, over shapes around the block size.
#include "quern/autograd/ops/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "quern/autograd/gradcheck.h"
#include "quern/autograd/kernels/parallel.h"
#include "quern/autograd/ops/elementwise.h"
#include "tests/support/random_tensor.h"

namespace quern {
namespace {

using testing::random_tensor;

struct Case {
  i64 batch, seq, heads, nope, rope, value;
  i64 document;  // positions from one document's start to the next; 0: no first_key; -1: scattered
  std::string str() const {
    std::string s;
    for (const i64 n : {batch, seq, heads, nope, rope, value, document}) {
      s += std::to_string(n) + " ";
    }
    return s;
  }
};

constexpr double kScale = 0.37;

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const i64 seq : {1, 2, 63, 64, 65, 130}) {
    for (const i64 heads : {1, 3}) {
      for (const i64 document : {0, 1, 7, 50, 129, -1}) {
        all.push_back({2, seq, heads, 5, 4, 7, document});
      }
    }
  }
  all.push_back({1, 130, 2, 64, 32, 64, 100});
  all.push_back({3, 66, 2, 0, 2, 1, 30});
  all.push_back({3, 66, 2, 3, 0, 16, 30});
  return all;
}

// The second sequence's documents begin elsewhere than the first's.
Tensor first_keys(const Case& c) {
  if (c.document == 0) return {};
  Tensor t = Tensor::empty({c.batch, c.seq}, DType::i32);
  for (i64 b = 0; b < c.batch; ++b) {
    for (i64 i = 0; i < c.seq; ++i) {
      const i64 start = (i + 3 * b) / c.document * c.document - 3 * b;
      const i64 scattered = (37 * i + 17 * b) % 101 % (i + 1);  // falls as well as rises
      t.data<i32>()[b * c.seq + i] = i32(c.document < 0 ? scattered : std::max<i64>(0, start));
    }
  }
  return t;
}

struct Problem {
  Tensor q, kv, k_rope, first_key, dout;
};

Problem problem(const Case& c, DType dtype) {
  return {random_tensor({c.batch, c.seq, c.heads, c.nope + c.rope}, dtype, 1),
          random_tensor({c.batch, c.seq, c.heads, c.nope + c.value}, dtype, 2),
          random_tensor({c.batch, c.seq, c.rope}, dtype, 3), first_keys(c),
          random_tensor({c.batch, c.seq, c.heads * c.value}, dtype, 4)};
}

struct Result {
  Tensor out, dq, dkv, dk_rope;
};

// Each gradient is asked for `times` times over: the first overwrites, the others are added.
Result with_op(const Problem& p, int times = 1) {
  Tape tape;
  const Var q = tape.input(p.q), kv = tape.input(p.kv), k_rope = tape.input(p.k_rope);
  std::vector<Var> outs;
  for (int i = 0; i < times; ++i) {
    outs.push_back(ops::mla_attention(tape, q, kv, k_rope, p.first_key, kScale));
  }
  tape.backward(outs, std::vector<Tensor>(outs.size(), p.dout));
  return {outs[0].value(), tape.grad(q), tape.grad(kv), tape.grad(k_rope)};
}

// One query of one head, by the definition: probabilities, output, and all its gradients.
void naive_query(const Case& c, const Problem& p, const Result& r, i64 b, i64 h, i64 i) {
  const auto token = [&](i64 j) { return b * c.seq + j; };
  const i64 dim = c.nope + c.rope, q_at = (token(i) * c.heads + h) * dim;
  const i64 out_at = (token(i) * c.heads + h) * c.value;
  const auto kv_at = [&](i64 j) { return (token(j) * c.heads + h) * (c.nope + c.value); };
  const double *q = p.q.data<double>() + q_at, *dout = p.dout.data<double>() + out_at;
  const double *kv = p.kv.data<double>(), *k_rope = p.k_rope.data<double>();
  const auto key = [&](i64 j, i64 d) {
    return d < c.nope ? kv[kv_at(j) + d] : k_rope[token(j) * c.rope + d - c.nope];
  };
  const i64 first = p.first_key.defined() ? p.first_key.data<i32>()[token(i)] : 0;
  std::vector<double> prob(size_t(i + 1), 0.0);
  double sum = 0;
  for (i64 j = first; j <= i; ++j) {
    double s = 0;
    for (i64 d = 0; d < dim; ++d) s += q[d] * key(j, d);
    sum += prob[size_t(j)] = std::exp(kScale * s);
  }
  double delta = 0;
  double* out = r.out.data<double>() + out_at;
  for (i64 j = first; j <= i; ++j) {
    prob[size_t(j)] /= sum;
    for (i64 d = 0; d < c.value; ++d) out[d] += prob[size_t(j)] * kv[kv_at(j) + c.nope + d];
  }
  for (i64 d = 0; d < c.value; ++d) delta += dout[d] * out[d];
  for (i64 j = first; j <= i; ++j) {
    double dprob = 0;
    double* dkv = r.dkv.data<double>() + kv_at(j);
    for (i64 d = 0; d < c.value; ++d) {
      dprob += dout[d] * kv[kv_at(j) + c.nope + d];
      dkv[c.nope + d] += prob[size_t(j)] * dout[d];
    }
    const double ds = kScale * prob[size_t(j)] * (dprob - delta);
    for (i64 d = 0; d < dim; ++d) {
      r.dq.data<double>()[q_at + d] += ds * key(j, d);
      double* dk = d < c.nope ? dkv + d : r.dk_rope.data<double>() + token(j) * c.rope + d - c.nope;
      *dk += ds * q[d];
    }
  }
}

// f32 problems are widened exactly, so both sides see the same numbers.
Result naive(const Case& c, const Problem& given) {
  const auto wide = [](const Tensor& t) { return t.cast(DType::f64); };
  const Problem p{wide(given.q), wide(given.kv), wide(given.k_rope), given.first_key,
                  wide(given.dout)};
  const auto zeros = [](const Tensor& t) { return Tensor::zeros(t.shape(), DType::f64); };
  const Result r{zeros(p.dout), zeros(p.q), zeros(p.kv), zeros(p.k_rope)};
  for (i64 b = 0; b < c.batch; ++b) {
    for (i64 h = 0; h < c.heads; ++h) {
      for (i64 i = 0; i < c.seq; ++i) naive_query(c, p, r, b, h, i);
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

void expect_equal_bits(const Tensor& a, const Tensor& b) {
  EXPECT_TRUE(std::ranges::equal(a.bytes(), b.bytes()));
}

class AttentionReference : public ::testing::TestWithParam<DType> {};

TEST_P(AttentionReference, OutputAndGradients) {
  const double epsilon = GetParam() == DType::f32 ? std::numeric_limits<float>::epsilon()
                                                  : std::numeric_limits<double>::epsilon();
  for (const Case& c : cases()) {
    const Problem p = problem(c, GetParam());
    const Result expected = naive(c, p);
    for (const int times : {1, 2}) {
      const Result actual = with_op(p, times);
      const double tolerance = epsilon * 2 * double(c.nope + c.rope + c.value + 8);
      expect_near(actual.out, expected.out, 1, tolerance, "out of " + c.str());
      expect_near(actual.dq, expected.dq, times, tolerance, "dq of " + c.str());
      expect_near(actual.dkv, expected.dkv, times, tolerance, "dkv of " + c.str());
      expect_near(actual.dk_rope, expected.dk_rope, times, tolerance, "dk_rope of " + c.str());
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, AttentionReference, ::testing::Values(DType::f32, DType::f64),
                         [](const auto& info) { return name_of(info.param); });

TEST(Attention, GradcheckOverBlocksAndDocuments) {
  for (const i64 document : {0, 40}) {
    const Case c{1, 67, 1, 1, 2, 1, document};
    const Problem p = problem(c, DType::f64);
    const GradcheckReport report = gradcheck(
        [&](Tape& t, std::vector<Var>& in) {
          return ops::mla_attention(t, in[0], in[1], in[2], p.first_key, kScale);
        },
        {p.q, p.kv, p.k_rope});
    EXPECT_LT(report.worst, 1e-6) << report.detail;
  }
}

// Nothing of another document, even in the same block, has any weight, and none gets a gradient.
TEST(Attention, DocumentsDoNotSeeEachOther) {
  const Case c{1, 130, 2, 5, 4, 7, 100};
  const Problem p = problem(c, DType::f32);
  const i64 split = 100 * c.heads * c.value, kv_split = 100 * c.heads * (c.nope + c.value);
  std::ranges::fill(p.dout.span<float>().first(size_t(split)), 0.0f);
  const Result before = with_op(p);
  for (float& x : p.kv.span<float>().first(size_t(kv_split))) x = 3 - 2 * x;
  const Result after = with_op(p);
  for (const float x : after.dkv.span<float>().first(size_t(kv_split))) ASSERT_EQ(x, 0.0f);
  EXPECT_TRUE(std::ranges::equal(before.out.span<float>().subspan(size_t(split)),
                                 after.out.span<float>().subspan(size_t(split))));
  EXPECT_FALSE(std::ranges::equal(before.out.span<float>(), after.out.span<float>()));
}

TEST(Attention, LargeScoresStayFinite) {
  const Case c{1, 70, 1, 4, 2, 3, 0};
  Problem p = problem(c, DType::f32);
  for (float& x : p.q.span<float>()) x *= 1e4f;
  const Result r = with_op(p);
  for (const Tensor& t : {r.out, r.dq, r.dkv, r.dk_rope}) {
    for (const float x : t.span<float>()) ASSERT_TRUE(std::isfinite(x));
  }
}

TEST(Attention, NanReachesTheOutput) {
  const Problem p = problem({1, 3, 1, 4, 2, 3, 0}, DType::f32);
  p.q.data<float>()[6] = std::numeric_limits<float>::quiet_NaN();  // of the second query
  const Tensor out = with_op(p).out;
  for (i64 i = 0; i < 9; ++i) EXPECT_EQ(std::isnan(out.data<float>()[i]), i / 3 == 1) << i;
}

TEST(Attention, SameBitsForAnyNumberOfThreads) {
  const int threads = num_threads();
  for (const DType dtype : {DType::f32, DType::f64}) {
    const Problem p = problem({3, 200, 3, 16, 8, 16, 90}, dtype);
    set_num_threads(1);
    const Result one = with_op(p);
    for (const int n : {2, 3}) {
      set_num_threads(n);
      const Result many = with_op(p);
      expect_equal_bits(one.out, many.out);
      expect_equal_bits(one.dq, many.dq);
      expect_equal_bits(one.dkv, many.dkv);
      expect_equal_bits(one.dk_rope, many.dk_rope);
    }
  }
  set_num_threads(threads);
}

TEST(Attention, GradientsThatNobodyWantsAreLeftOut) {
  const Problem p = problem({1, 5, 2, 3, 2, 4, 0}, DType::f64);
  Tape tape;
  const Var kv = tape.input(p.kv);
  const Var y = ops::mla_attention(tape, Var(p.q), kv, Var(p.k_rope), {}, kScale);
  tape.backward(std::vector{y}, std::vector{p.dout});
  expect_equal_bits(tape.grad(kv), with_op(p).dkv);
}

TEST(Attention, RefusesWhatDoesNotFit) {
  Tape tape;
  const auto run = [&](const Shape& q, const Shape& kv, const Shape& k_rope, const Tensor& first) {
    ops::mla_attention(tape, Var(random_tensor(q)), Var(random_tensor(kv)),
                       Var(random_tensor(k_rope)), first, kScale);
  };
  const Tensor i32s = Tensor::zeros({2, 3}, DType::i32);
  EXPECT_NO_THROW(run({2, 3, 2, 5}, {2, 3, 2, 7}, {2, 3, 2}, i32s));
  EXPECT_THROW(run({2, 3, 10}, {2, 3, 2, 7}, {2, 3, 2}, {}), ShapeError);
  EXPECT_THROW(run({2, 3, 2, 5}, {2, 3, 1, 7}, {2, 3, 2}, {}), ShapeError);
  EXPECT_THROW(run({2, 3, 2, 5}, {2, 3, 2, 7}, {2, 4, 2}, {}), ShapeError);
  EXPECT_THROW(run({2, 3, 2, 5}, {2, 3, 2, 3}, {2, 3, 2}, {}), ShapeError);
  EXPECT_THROW(run({2, 3, 2, 5}, {2, 3, 2, 7}, {2, 3, 6}, {}), ShapeError);
  EXPECT_THROW(run({2, 3, 2, 5}, {2, 3, 2, 7}, {2, 3, 2}, Tensor::zeros({3, 2}, DType::i32)),
               ShapeError);
  EXPECT_THROW(run({2, 3, 2, 5}, {2, 3, 2, 7}, {2, 3, 2}, Tensor::zeros({2, 3}, DType::f64)),
               ShapeError);
  i32s.data<i32>()[4] = 2;  // a document that begins after its own query
  EXPECT_THROW(run({2, 3, 2, 5}, {2, 3, 2, 7}, {2, 3, 2}, i32s), ShapeError);
}

}  // namespace
}  // namespace quern
