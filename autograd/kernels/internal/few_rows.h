// SPDX-License-Identifier: MIT
// Products of few rows, for the kernel files, as in generation: what bounds them is the reading of
// the larger operand, whose rows are multiplied where they lie. A row's bits do not depend on how
// many rows there are, but are not those of block_product.
#pragma once

#include <stddef.h>

#include <utility>

#include "quern/autograd/kernels/internal/panels.h"

namespace quern::kernels::QUERN_TIER {

inline constexpr i64 kFewRows = 4;
// Whether a product of `rows` rows is one of few; rows_alone: as Gemm has it.
inline bool is_few(i64 rows, bool rows_alone) { return rows <= kFewRows || rows_alone; }

inline constexpr i64 kDotColumns = 64;  // rows of b at a time

// The sum of a vector's lanes: halves are added, then halves of those, and so on.
template <class T, int H, size_t... I>
T sum_of_halves(typename Simd<T>::Vector v, std::index_sequence<I...> lanes) {
  if constexpr (H == 0) {
    return v[0];
  } else {
    const auto other = __builtin_shufflevector(v, v, (int(I) ^ H)...);
    return sum_of_halves<T, H / 2>(v + other, lanes);
  }
}

template <class T>
T sum_of_lanes(typename Simd<T>::Vector v) {
  constexpr int W = Simd<T>::kWidth;
  return sum_of_halves<T, W / 2>(v, std::make_index_sequence<size_t(W)>());
}

// The same of 2 H / Lanes vectors at once, each in Lanes lanes of v[0] in the end, one after the
// other: two vectors are halved into one, as in a transposition.
template <class T, int Lanes, int H>
[[gnu::always_inline]] inline void sums_of_halves(typename Simd<T>::Vector* v) {
  constexpr auto lanes = std::make_index_sequence<size_t(Simd<T>::kWidth)>();
  if constexpr (H >= Lanes) {
#pragma GCC unroll 16
    for (int i = 0; i < H / Lanes; ++i) {
      exchange<T, H>(v[i], v[i + H / Lanes], lanes);
      v[i] += v[i + H / Lanes];
    }
  } else {
    auto other = v[0];
    exchange<T, H>(v[0], other, lanes);
    v[0] += other;
  }
  if constexpr (H > 1) sums_of_halves<T, Lanes, H / 2>(v);
}

// sums[i] = the sum of v[i]'s lanes, in that order; v is used up.
template <class T, int N>
[[gnu::always_inline]] inline void sums_of_lanes(typename Simd<T>::Vector* v, T* sums) {
  constexpr int W = Simd<T>::kWidth;
  if constexpr (N > 1 && W >= N) {
    sums_of_halves<T, W / N, W / 2>(v);
    if constexpr (N == W) {
      Simd<T>::store(sums, v[0]);
    } else {
#pragma GCC unroll 4
      for (int i = 0; i < N; ++i) sums[i] = v[0][i * (W / N)];
    }
  } else {
    for (int i = 0; i < N; ++i) sums[i] = sum_of_lanes<T>(v[i]);
  }
}

// A vector of elements of type T or, where B is bf16 and T is not, as many of those as T.
template <class T, class B>
auto vector_of(const B* x) {
  if constexpr (std::is_same_v<T, B>) {
    return Panels<T>::along(x);
  } else {
    return widened<T>(x);
  }
}

inline float value_of(bf16 x) { return float(x); }
inline float value_of(float x) { return x; }
inline double value_of(double x) { return x; }

// c[Rows, Columns] (+)= a b^T; rows of both are contiguous along k. b: of T, or bf16 to be widened.
// `next`: of b, what is read after this, which is fetched meanwhile, in the order in which it lies
// in memory: then the processor fetches further ahead by itself.
template <class T, int Rows, int Columns, class B>
void dot_tile(i64 k, const T* const* a, const B* b, i64 ldb, const B* next, Sum<T>* c, i64 ldc,
              bool accumulate) {
  using P = Panels<T>;
  using S = Simd<Sum<T>>;
  constexpr i64 W = i64(Simd<Element<T>>::kWidth) * P::kDeep;
  typename S::Vector sum[Rows][Columns] = {};
  const i64 next_step = ldb == k ? Columns : 1, next_column = ldb == k ? W : ldb;
  i64 x = 0;
  for (; x + W <= k; x += W) {
#pragma GCC unroll 4
    for (int j = 0; j < Columns; ++j) {
      const auto bj = vector_of<T>(b + j * ldb + x);
      __builtin_prefetch(next + x * next_step + j * next_column);
#pragma GCC unroll 16
      for (int i = 0; i < Rows; ++i) {
        sum[i][j] = P::multiply_add_each(P::along(a[i] + x), bj, sum[i][j]);
      }
    }
  }
  Sum<T> totals[Rows][Columns];
  if constexpr (Rows * Columns == S::kWidth) {
    sums_of_lanes<Sum<T>, Rows * Columns>(&sum[0][0], &totals[0][0]);
  } else {
#pragma GCC unroll 4
    for (int i = 0; i < Rows; ++i) sums_of_lanes<Sum<T>, Columns>(sum[i], totals[i]);
  }
  for (int i = 0; i < Rows; ++i) {
    for (int j = 0; j < Columns; ++j) {
      Sum<T> total = totals[i][j];
      for (i64 y = x; y < k; ++y) total += value_of(a[i][y]) * value_of(b[j * ldb + y]);
      Sum<T>& to = c[i * ldc + j];
      to = accumulate ? to + total : total;
    }
  }
}

template <class T, int Rows, class B>
void dot_columns(i64 n, i64 k, const T* const* a, const B* b, i64 ldb, Sum<T>* c, i64 ldc,
                 bool accumulate) {
  constexpr int kColumns = Rows <= 4 ? 4 : 16 / Rows;
  i64 j = 0;
  for (; j + kColumns <= n; j += kColumns) {
    const B* const at = b + j * ldb;
    const B* const next = j + 2 * kColumns <= n ? at + kColumns * ldb : at;
    dot_tile<T, Rows, kColumns>(k, a, at, ldb, next, c + j, ldc, accumulate);
  }
  for (; j < n; ++j) {
    dot_tile<T, Rows, 1>(k, a, b + j * ldb, ldb, b + j * ldb, c + j, ldc, accumulate);
  }
}

// Of `rows` of a, how many are multiplied in one reading of b: as many as registers hold sums of.
inline i64 rows_at_once(i64 rows) {
  if (kVectorBytes == 64 && rows >= 8) return rows >= 16 ? 16 : 8;
  return rows < 4 ? rows : 4;
}

// c[m, n] (+)= a b^T. Where b is read more than once that is a piece of it at a time, which caches
// hold.
template <class T, class B>
void few_rows_product(i64 m, i64 n, i64 k, Matrix<T> a, const B* b, i64 ldb, Sum<T>* c, i64 ldc,
                      bool accumulate) {
  const i64 columns = m == rows_at_once(m) ? n : kDotColumns;
  for (i64 j = 0; j < n; j += columns) {
    const i64 some = smaller(columns, n - j);
    for (i64 i = 0, rows; i < m; i += rows) {
      rows = rows_at_once(m - i);
      const T* from[16];
      for (i64 r = 0; r < rows; ++r) from[r] = a.row(i + r);
      const B* const piece = b + j * ldb;
      Sum<T>* const to = c + i * ldc + j;
      if (rows == 1) dot_columns<T, 1>(some, k, from, piece, ldb, to, ldc, accumulate);
      if (rows == 2) dot_columns<T, 2>(some, k, from, piece, ldb, to, ldc, accumulate);
      if (rows == 3) dot_columns<T, 3>(some, k, from, piece, ldb, to, ldc, accumulate);
      if (rows == 4) dot_columns<T, 4>(some, k, from, piece, ldb, to, ldc, accumulate);
      if constexpr (kVectorBytes == 64) {
        if (rows == 8) dot_columns<T, 8>(some, k, from, piece, ldb, to, ldc, accumulate);
        if (rows == 16) dot_columns<T, 16>(some, k, from, piece, ldb, to, ldc, accumulate);
      }
    }
  }
}

// c[Rows, Parts vectors] = a b, over the k rows of b.
template <class T, int Rows, int Parts, class B>
void mix_tile(i64 k, const T* a, i64 lda, const B* b, i64 ldb, T* c, i64 ldc) {
  using S = Simd<T>;
  constexpr int W = S::kWidth;
  typename S::Vector sum[Rows][Parts] = {};
  for (i64 x = 0; x < k; ++x) {
#pragma GCC unroll 4
    for (int j = 0; j < Parts; ++j) {
      const auto bj = vector_of<T>(b + x * ldb + j * W);
#pragma GCC unroll 4
      for (int i = 0; i < Rows; ++i) sum[i][j] += a[i * lda + x] * bj;
    }
  }
  for (int i = 0; i < Rows; ++i) {
    for (int j = 0; j < Parts; ++j) S::store(c + i * ldc + j * W, sum[i][j]);
  }
}

template <class T, int Rows, class B>
void mix_columns(i64 n, i64 k, const T* a, i64 lda, const B* b, i64 ldb, T* c, i64 ldc) {
  constexpr i64 W = Simd<T>::kWidth;
  i64 j = 0;
  for (; j + 4 * W <= n; j += 4 * W) mix_tile<T, Rows, 4>(k, a, lda, b + j, ldb, c + j, ldc);
  for (; j + W <= n; j += W) mix_tile<T, Rows, 1>(k, a, lda, b + j, ldb, c + j, ldc);
  for (; j < n; ++j) {
    for (int i = 0; i < Rows; ++i) {
      T sum = 0;
      for (i64 x = 0; x < k; ++x) sum += a[i * lda + x] * value_of(b[x * ldb + j]);
      c[i * ldc + j] = sum;
    }
  }
}

// c[m, n] = a[m, k] b[k, n]; b as above.
template <class T, class B>
void few_rows_mix(i64 m, i64 n, i64 k, const T* a, i64 lda, const B* b, i64 ldb, T* c, i64 ldc) {
  for (; m >= 4; m -= 4, a += 4 * lda, c += 4 * ldc) {
    mix_columns<T, 4>(n, k, a, lda, b, ldb, c, ldc);
  }
  if (m == 1) mix_columns<T, 1>(n, k, a, lda, b, ldb, c, ldc);
  if (m == 2) mix_columns<T, 2>(n, k, a, lda, b, ldb, c, ldc);
  if (m == 3) mix_columns<T, 3>(n, k, a, lda, b, ldb, c, ldc);
}

}  // namespace quern::kernels::QUERN_TIER
