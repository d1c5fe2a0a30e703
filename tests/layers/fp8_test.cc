// SPDX-License-Identifier: MIT
// Products of E4M3 operands and their gradients, number by number: what is multiplied is rounded in
// blocks, the result's gradient too, and what is rounded gets the gradient of its rounding.
#include "quern/layers/fp8.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "tests/support/random_tensor.h"

namespace quern {
namespace {

using testing::random_tensor;

constexpr i64 kBlock = 128;
using Matrix = std::vector<std::vector<double>>;

Matrix matrix_of(const Tensor& t, i64 first_row, i64 rows) {
  const i64 columns = t.dim(t.shape().rank() - 1);
  const double* x = t.data<double>() + first_row * columns;
  Matrix m;
  for (i64 r = 0; r < rows; ++r) m.emplace_back(x + r * columns, x + (r + 1) * columns);
  return m;
}

// 4 bits of exponent and 3 of mantissa, scaled such that `largest` is at most 448.
double rounded(double x, double largest) {
  if (x == 0) return 0;
  const double scale = std::exp2(std::ceil(std::log2(largest / 448)));
  const double step = std::exp2(std::max(std::floor(std::log2(std::abs(x / scale))), -6.0) - 3);
  return std::nearbyint(x / scale / step) * step * scale;
}

Matrix rounded(const Matrix& m, i64 block_rows) {
  Matrix out = m;
  const i64 rows = i64(m.size()), columns = m.empty() ? 0 : i64(m[0].size());
  for (i64 r = 0; r < rows; r += block_rows) {
    for (i64 c = 0; c < columns; c += kBlock) {
      const i64 last_row = std::min(r + block_rows, rows), last = std::min(c + kBlock, columns);
      double largest = 0;
      for (i64 i = r; i < last_row; ++i) {
        for (i64 k = c; k < last; ++k) {
          largest = std::max(largest, std::abs(m[size_t(i)][size_t(k)]));
        }
      }
      for (i64 i = r; i < last_row; ++i) {
        for (i64 k = c; k < last; ++k) {
          out[size_t(i)][size_t(k)] = rounded(m[size_t(i)][size_t(k)], largest);
        }
      }
    }
  }
  return out;
}

void expect_near(const Matrix& expected, const Tensor& actual, i64 first_row) {
  const Matrix got = matrix_of(actual, first_row, i64(expected.size()));
  for (size_t r = 0; r < expected.size(); ++r) {
    for (size_t c = 0; c < expected[r].size(); ++c) {
      ASSERT_NEAR(got[r][c], expected[r][c], 1e-12) << r << ", " << c;
    }
  }
}

Matrix zeros(size_t rows, size_t columns) { return Matrix(rows, std::vector<double>(columns)); }

// y = x w^T, dx = dy w and dw = dy^T x.
struct Product {
  Product(const Matrix& x, const Matrix& w, const Matrix& dy)
      : y(zeros(x.size(), w.size())),
        dx(zeros(x.size(), w[0].size())),
        dw(zeros(w.size(), w[0].size())) {
    for (size_t t = 0; t < x.size(); ++t) {
      for (size_t o = 0; o < w.size(); ++o) {
        for (size_t i = 0; i < w[0].size(); ++i) {
          y[t][o] += x[t][i] * w[o][i];
          dx[t][i] += dy[t][o] * w[o][i];
          dw[o][i] += dy[t][o] * x[t][i];
        }
      }
    }
  }
  Matrix y, dx, dw;
};

// Some numbers much larger than their neighbours, so that blocks have different scales.
Tensor uneven(const Shape& shape, std::uint64_t seed) {
  const Tensor t = random_tensor(shape, DType::f64, seed);
  for (i64 i = 0; i < t.numel(); i += 37) t.data<double>()[i] *= 50;
  return t;
}

TEST(Fp8, LinearIsTheLoopOverRoundedNumbers) {
  constexpr i64 kTokens = 5, kIn = 150, kOut = 140;
  const Tensor dy = uneven({kTokens, kOut}, 3);
  Tape tape;
  const Var x = tape.input(uneven({kTokens, kIn}, 1)), w = tape.input(uneven({kOut, kIn}, 2));
  const Var y = fp8_linear(tape, x, w, {kOut, kIn});
  tape.backward(std::span(&y, 1), std::span(&dy, 1));
  const Product p(rounded(matrix_of(x.value(), 0, kTokens), 1),
                  rounded(matrix_of(w.value(), 0, kOut), kBlock),
                  rounded(matrix_of(dy, 0, kTokens), 1));
  expect_near(p.y, y.value(), 0);
  expect_near(p.dx, tape.grad(x), 0);
  expect_near(p.dw, tape.grad(w), 0);
}

// Three experts, one without tokens, of two matrices each that are rounded apart.
TEST(Fp8, GroupedLinearIsOnePerExpert) {
  constexpr i64 kExperts = 3, kIn = 150, kRows = 130, kOut = 2 * kRows;
  const auto offsets = std::make_shared<const std::vector<i64>>(std::vector<i64>{0, 3, 3, 5});
  const Tensor dy = uneven({5, kOut}, 3);
  Tape tape;
  const Var x = tape.input(uneven({5, kIn}, 1));
  const Var w = tape.input(uneven({kExperts, kOut, kIn}, 2));
  const Var y = fp8_grouped_linear(tape, x, w, {kRows, kIn}, offsets);
  tape.backward(std::span(&y, 1), std::span(&dy, 1));
  for (i64 e = 0; e < kExperts; ++e) {
    const i64 first = (*offsets)[size_t(e)], tokens = (*offsets)[size_t(e) + 1] - first;
    Matrix matrices = rounded(matrix_of(w.value(), e * kOut, kRows), kBlock);
    for (auto& row : rounded(matrix_of(w.value(), e * kOut + kRows, kRows), kBlock)) {
      matrices.push_back(std::move(row));
    }
    const Product p(rounded(matrix_of(x.value(), first, tokens), 1), matrices,
                    rounded(matrix_of(dy, first, tokens), 1));
    expect_near(p.y, y.value(), first);
    expect_near(p.dx, tape.grad(x), first);
    expect_near(p.dw, tape.grad(w), e * kOut);
  }
}

}  // namespace
}  // namespace quern
