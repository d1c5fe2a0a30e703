// SPDX-License-Identifier: MIT
// Products and attention of the amx set, with loops in place of the instructions on tile registers:
// against sums in double, and against the kernels in use.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "quern/autograd/kernels/attention.h"
#include "quern/autograd/kernels/cpu.h"
#include "quern/autograd/kernels/gemm.h"
#include "quern/autograd/random.h"

namespace quern::kernels {
namespace emulated_tiles {
template <class T>
void gemm(const Gemm<T>& args);
template <class T>
void grouped_gemm(const GroupedGemm<T>& args);
template <class T>
void grouped_gemm_trans_a(const GroupedGemmTransA<T>& args);
template <class T>
void attention(const Attention<T>& args);
template <class T>
void attention_backward(const AttentionBackward<T>& args);
}  // namespace emulated_tiles

namespace {

using Bf16s = std::vector<bf16>;
using Floats = std::vector<float>;

class Tiles : public ::testing::Test {
 protected:
  void SetUp() override {
    if (best_kernel_set() < KernelSet::avx512_bf16) GTEST_SKIP() << "needs AVX-512 with bf16";
  }

  Floats floats(i64 n) {
    Floats x(static_cast<std::size_t>(n));
    for (float& v : x) v = float(random_.uniform(next_++) * 2 - 1);
    return x;
  }
  Bf16s bf16s(i64 n) {
    Bf16s x;
    for (const float v : floats(n)) x.emplace_back(v);
    return x;
  }

  Random random_{5, "tiles"};
  std::uint64_t next_ = 0;
};

struct Operand {
  const bf16* data;
  i64 row_step, k_step;
  const i32* rows = nullptr;  // of what is stored, along the extent that `listed` says
  bool listed_is_k = false;

  double at(i64 row, i64 k) const {
    if (rows) (listed_is_k ? k : row) = rows[listed_is_k ? k : row];
    return double(float(data[row * row_step + k * k_step]));
  }
};

// c = start + a b within what a sum of k products in single may be off.
void expect_product(i64 m, i64 n, i64 k, const Operand& a, const Operand& b, const float* c,
                    i64 ldc, const float* start) {
  for (i64 i = 0; i < m; ++i) {
    for (i64 j = 0; j < n; ++j) {
      double sum = start ? double(start[i * ldc + j]) : 0, size = std::abs(sum);
      for (i64 x = 0; x < k; ++x) {
        const double product = a.at(i, x) * b.at(j, x);
        sum += product;
        size += std::abs(product);
      }
      ASSERT_NEAR(double(c[i * ldc + j]), sum, 6e-8 * double(k + 2) * size + 1e-30)
          << i << ", " << j << " of " << m << " x " << n << " x " << k;
    }
  }
}

// Around the sides of registers, blocks and slices.
TEST_F(Tiles, MultipliesAllShapesAndLayouts) {
  const i64 sizes[][3] = {{5, 1, 1},      {16, 16, 32},  {32, 32, 32},  {17, 33, 31},
                          {33, 15, 65},   {64, 48, 512}, {40, 31, 513}, {7, 70, 1026},
                          {261, 20, 100}, {20, 1030, 40}};
  for (const auto& [m, n, k] : sizes) {
    for (int layout = 0; layout < 8; ++layout) {
      const bool trans_a = layout & 1, trans_b = layout & 2, accumulate = layout & 4;
      const i64 lda = (trans_a ? m : k) + 3, ldb = (trans_b ? k : n) + 5, ldc = n + 2;
      const Bf16s a = bf16s((trans_a ? k : m) * lda), b = bf16s((trans_b ? n : k) * ldb);
      const Floats start = floats(m * ldc);
      Floats c = start;
      emulated_tiles::gemm<bf16>(
          {m, n, k, a.data(), lda, trans_a, b.data(), ldb, trans_b, c.data(), ldc, accumulate});
      expect_product(m, n, k, {a.data(), trans_a ? 1 : lda, trans_a ? lda : 1},
                     {b.data(), trans_b ? ldb : 1, trans_b ? 1 : ldb}, c.data(), ldc,
                     accumulate ? start.data() : nullptr);
      for (i64 i = 0; i < m; ++i) {  // nothing beside c
        ASSERT_EQ(c[std::size_t(i * ldc + n)], start[std::size_t(i * ldc + n)]);
      }
    }
  }
}

// What is not part of an operand is not read: there it is no number.
TEST_F(Tiles, ReadNothingBesideTheirOperands) {
  const i64 m = 19, n = 21, k = 37, ld = 80;
  const bf16 nan(std::numeric_limits<float>::quiet_NaN());
  for (const bool trans_a : {false, true}) {
    for (const bool trans_b : {false, true}) {
      Bf16s a(80 * 80, nan), b(80 * 80, nan);
      for (i64 i = 0; i < (trans_a ? k : m); ++i) {
        for (i64 j = 0; j < (trans_a ? m : k); ++j) a[std::size_t(i * ld + j)] = bf16(0.5f);
      }
      for (i64 i = 0; i < (trans_b ? n : k); ++i) {
        for (i64 j = 0; j < (trans_b ? k : n); ++j) b[std::size_t(i * ld + j)] = bf16(2.0f);
      }
      Floats c(static_cast<std::size_t>(m * n));
      emulated_tiles::gemm<bf16>(
          {m, n, k, a.data(), ld, trans_a, b.data(), ld, trans_b, c.data(), n, false});
      for (const float x : c) ASSERT_EQ(x, float(k));
    }
  }
}

// A row's bits depend neither on how many rows there are nor on where in a block it lies.
TEST_F(Tiles, RowsHaveTheSameBitsWhereverTheyLie) {
  const i64 m = 83, n = 45, k = 600;
  const Bf16s a = bf16s(m * k), b = bf16s(n * k);
  const Floats start = floats(m * n);
  for (const bool accumulate : {false, true}) {
    Floats all = start;
    emulated_tiles::gemm<bf16>(
        {m, n, k, a.data(), k, false, b.data(), k, true, all.data(), n, accumulate});
    for (const i64 first : {1, 16, 30}) {
      const i64 rows = m - first - 2;
      Floats some = start;
      emulated_tiles::gemm<bf16>({rows, n, k, a.data() + first * k, k, false, b.data(), k, true,
                                  some.data() + first * n, n, accumulate});
      ASSERT_EQ(std::memcmp(some.data() + first * n, all.data() + first * n,
                            sizeof(float) * std::size_t(rows * n)),
                0);
    }
  }
}

// Where there are tile registers, and in use: their sums are documented to the last bit.
TEST_F(Tiles, HaveTheBitsOfTheInstructions) {
  if (kernel_set() != KernelSet::amx) GTEST_SKIP() << "needs AMX";
  for (const auto& [m, n, k] : {std::array<i64, 3>{37, 50, 90}, {64, 64, 700}, {5, 9, 31}}) {
    const Bf16s a = bf16s(m * k), b = bf16s(n * k);
    Floats emulated = floats(m * n), c = emulated;
    const auto product = [&](Floats& to) {
      return Gemm<bf16>{m, n, k, a.data(), k, false, b.data(), k, true, to.data(), n, true};
    };
    emulated_tiles::gemm<bf16>(product(emulated));
    gemm<bf16>(product(c));
    ASSERT_EQ(c, emulated);
  }
}

TEST_F(Tiles, MultiplyGroupsOfListedRows) {
  const i64 n = 40, k = 70, tokens = 50;
  const std::vector<i64> offsets{0, 0, 3, 40, 41, 108};
  const i64 groups = 5, rows = offsets.back();
  std::vector<i32> list(static_cast<std::size_t>(rows));
  for (i32& r : list) r = i32(random_.below(next_++, std::uint64_t(tokens)));
  const Bf16s x = bf16s(tokens * k), w = bf16s(groups * n * k), dy = bf16s(tokens * n);
  for (const bool trans_b : {true, false}) {
    Floats y(static_cast<std::size_t>(rows * n));
    emulated_tiles::grouped_gemm<bf16>(
        {groups, offsets.data(), n, k, x.data(), w.data(), trans_b, y.data(), false, list.data()});
    for (i64 g = 0; g < groups; ++g) {
      const i64 begin = offsets[std::size_t(g)], count = offsets[std::size_t(g) + 1] - begin;
      expect_product(count, n, k, {x.data(), k, 1, list.data() + begin},
                     {w.data() + g * n * k, trans_b ? k : 1, trans_b ? 1 : n}, y.data() + begin * n,
                     n, nullptr);
    }
  }
  Floats dw(static_cast<std::size_t>(groups * n * k), 3.0f);
  emulated_tiles::grouped_gemm_trans_a<bf16>({groups, offsets.data(), n, k, dy.data(), x.data(),
                                              dw.data(), false, list.data(), list.data()});
  for (i64 g = 0; g < groups; ++g) {
    const i64 begin = offsets[std::size_t(g)], count = offsets[std::size_t(g) + 1] - begin;
    expect_product(n, k, count, {dy.data(), 1, n, list.data() + begin, true},
                   {x.data(), 1, k, list.data() + begin, true}, dw.data() + g * n * k, k, nullptr);
  }
}

TEST_F(Tiles, AttendAsTheKernelsInUseDo) {
  const i64 batch = 2, seq = 77, heads = 4, kv_heads = 2, nope = 24, rope = 8, value = 20;
  const i64 tokens = batch * seq, dim = nope + rope;
  const Bf16s q = bf16s(tokens * heads * dim), k = bf16s(tokens * kv_heads * nope),
              v = bf16s(tokens * kv_heads * value), k_rope = bf16s(tokens * rope);
  const Floats dout = floats(tokens * heads * value);
  std::vector<i32> first_key(static_cast<std::size_t>(tokens));
  for (i64 t = 0; t < tokens; ++t) first_key[std::size_t(t)] = t % seq < 30 ? 0 : 30;

  struct Results {
    Bf16s out;
    Floats log_sum_exp, dq, dk, dv, dk_rope, dk_rope_heads;
  };
  const auto attend = [&](bool emulated) {
    const auto zeros = [](i64 n) { return Floats(static_cast<std::size_t>(n)); };
    Results r{Bf16s(std::size_t(tokens * heads * value)),
              zeros(tokens * heads),
              zeros(tokens * heads * dim),
              zeros(tokens * kv_heads * nope),
              zeros(tokens * kv_heads * value),
              zeros(tokens * rope),
              zeros(kv_heads * tokens * rope)};
    const Attention<bf16> forward{batch,
                                  seq,
                                  heads,
                                  kv_heads,
                                  nope,
                                  rope,
                                  value,
                                  1 / std::sqrt(double(dim)),
                                  q.data(),
                                  {k.data(), kv_heads * nope, nope},
                                  {v.data(), kv_heads * value, value},
                                  k_rope.data(),
                                  first_key.data(),
                                  r.out.data(),
                                  r.log_sum_exp.data()};
    const auto backward = [&] {
      return AttentionBackward<bf16>{forward,          dout.data(), r.dq.data(),           false,
                                     r.dk.data(),      false,       r.dv.data(),           false,
                                     r.dk_rope.data(), false,       r.dk_rope_heads.data()};
    };
    if (emulated) {
      emulated_tiles::attention<bf16>(forward);
      emulated_tiles::attention_backward<bf16>(backward());
    } else {
      attention<bf16>(forward);
      attention_backward<bf16>(backward());
    }
    return r;
  };
  const Results got = attend(true), expected = attend(false);
  // Within a rounding to bf16 here and there: 2^-8 of the largest.
  const auto expect_near = [](const auto& a, const auto& b) {
    float largest = 0;
    for (const auto x : b) largest = std::max(largest, std::abs(float(x)));
    ASSERT_GT(largest, 0.01f);
    for (std::size_t i = 0; i < a.size(); ++i) {
      ASSERT_NEAR(float(a[i]), float(b[i]), largest / 256) << i;
    }
  };
  expect_near(got.out, expected.out);
  expect_near(got.log_sum_exp, expected.log_sum_exp);
  expect_near(got.dq, expected.dq);
  expect_near(got.dk, expected.dk);
  expect_near(got.dv, expected.dv);
  expect_near(got.dk_rope, expected.dk_rope);
}

}  // namespace
}  // namespace quern::kernels
