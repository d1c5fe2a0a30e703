// SPDX-License-Identifier: MIT
// One matrix product on one thread, for the kernel files, in the instructions of the tier it is
// compiled for.
//
// The scheme is that of GotoBLAS (Goto and van de Geijn, 2008): both operands are copied into
// panels that the inner loop reads in order, a slice of b that stays in the second-level cache and
// a panel of a that stays in the first, and a tile of c is held in registers. An element of c is a
// chain of multiply-adds over k within each slice of kDepth, and slices are added in order: its
// bits depend neither on m and n nor on where the element lies, so a row's result does not depend
// on how many rows there are.
#pragma once

#include <stdlib.h>

#include "quern/autograd/kernels/internal/panels.h"

namespace quern::kernels::QUERN_TIER {

inline constexpr i64 kDepth = 256;                 // of a slice, in elements of panels
inline constexpr i64 kSliceWidth = 1024;           // columns of b in a slice
inline constexpr i64 kSliceRows = 16 * kTileRows;  // rows of a in a slice

// T: of the operands; c and the sums are of the type Sum<T>.
template <class T>
inline constexpr i64 kTileColumns = 2 * Simd<Sum<T>>::kWidth;

// c[rows, 2 vectors] (+)= alpha * a b over `steps` elements of panels; a's is kTileRows wide.
template <class T, int Rows>
void tile(i64 steps, const Element<T>* a, const Element<T>* b, Sum<T> alpha, Sum<T>* c, i64 ldc,
          bool accumulate) {
  using S = Simd<Sum<T>>;
  using E = Simd<Element<T>>;
  constexpr int W = S::kWidth;
  typename S::Vector sum[Rows][2] = {};
  for (i64 k = 0; k < steps; ++k) {
    const auto b0 = E::load(b + k * 2 * W), b1 = E::load(b + k * 2 * W + W);
    const Element<T>* ak = a + k * kTileRows;
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      sum[i][0] = Panels<T>::multiply_add(ak[i], b0, sum[i][0]);
      sum[i][1] = Panels<T>::multiply_add(ak[i], b1, sum[i][1]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      Sum<T>* to = c + i * ldc + j * W;
      const auto v = alpha * sum[i][j];
      S::store(to, accumulate ? S::load(to) + v : v);
    }
  }
}

template <class T>
void tile_of(i64 rows, i64 steps, const Element<T>* a, const Element<T>* b, Sum<T> alpha, Sum<T>* c,
             i64 ldc, bool accumulate) {
  constexpr int kMiddle = kTileRows < 8 ? kTileRows : 8;
  if constexpr (kTileRows > 8) {
    if (rows > 8) return tile<T, kTileRows>(steps, a, b, alpha, c, ldc, accumulate);
  }
  if constexpr (kTileRows > 4) {
    if (rows > 4) return tile<T, kMiddle>(steps, a, b, alpha, c, ldc, accumulate);
  }
  if (rows > 2) return tile<T, 4>(steps, a, b, alpha, c, ldc, accumulate);
  if (rows > 1) return tile<T, 2>(steps, a, b, alpha, c, ldc, accumulate);
  tile<T, 1>(steps, a, b, alpha, c, ldc, accumulate);
}

// Rows of c that tile_of() touches for `rows` of them.
inline i64 touched_rows(i64 rows) {
  if (rows > 8) return kTileRows;
  if (rows > 4) return kTileRows < 8 ? kTileRows : 8;
  return rows > 2 ? 4 : rows;
}

// A tile at the edge of c goes through a buffer of its own.
template <class T>
void edge_tile(i64 rows, i64 columns, i64 steps, const Element<T>* a, const Element<T>* b,
               Sum<T> alpha, Sum<T>* c, i64 ldc, bool accumulate) {
  constexpr i64 N = kTileColumns<T>;
  Sum<T> buffer[kTileRows * N];
  tile_of<T>(rows, steps, a, b, alpha, buffer, N, false);
  for (i64 i = 0; i < rows; ++i) {
    for (i64 j = 0; j < columns; ++j) {
      c[i * ldc + j] = accumulate ? c[i * ldc + j] + buffer[i * N + j] : buffer[i * N + j];
    }
  }
}

template <class T>
void multiply_panels(i64 m, i64 n, i64 steps, Sum<T> alpha, const Element<T>* a_panels,
                     const Element<T>* b_panels, Sum<T>* c, i64 ldc, bool accumulate) {
  constexpr i64 M = kTileRows, N = kTileColumns<T>;
  for (i64 i = 0; i < m; i += M) {
    const i64 rows = m - i < M ? m - i : M;
    for (i64 j = 0; j < n; j += N) {
      const i64 columns = n - j < N ? n - j : N;
      const Element<T>*a = a_panels + i * steps, *b = b_panels + j * steps;
      Sum<T>* to = c + i * ldc + j;
      if (columns == N && touched_rows(rows) == rows) {
        tile_of<T>(rows, steps, a, b, alpha, to, ldc, accumulate);
      } else {
        edge_tile<T>(rows, columns, steps, a, b, alpha, to, ldc, accumulate);
      }
    }
  }
}

inline i64 smaller(i64 a, i64 b) { return a < b ? a : b; }
inline i64 rounded_up(i64 n, i64 to) { return (n + to - 1) / to * to; }

// c[m, n] (+)= alpha * op(a) * op(b); the arguments as in Gemm. Takes one piece of the heap, of
// bounded size.
template <class T>
void block_product(i64 m, i64 n, i64 k, Sum<T> alpha, Matrix<T> a, bool trans_a, Matrix<T> b,
                   bool trans_b, Sum<T>* c, i64 ldc, bool accumulate) {
  constexpr int M = kTileRows, N = int(kTileColumns<T>);
  constexpr i64 kSlice = kDepth * Panels<T>::kDeep;
  if (k == 0 && !accumulate) {
    for (i64 i = 0; i < m; ++i) {
      for (i64 j = 0; j < n; ++j) c[i * ldc + j] = 0;
    }
  }
  if (m == 0 || n == 0 || k == 0) return;
  const i64 deepest = steps_of<T>(smaller(k, kSlice));
  const i64 b_size = rounded_up(smaller(n, kSliceWidth), N) * deepest;
  const i64 a_size = rounded_up(smaller(m, kSliceRows), M) * deepest;
  // The panels of b first, whole vectors each, so that both begin at a vector's boundary.
  Element<T>* const b_panels = static_cast<Element<T>*>(
      aligned_alloc(64, size_t(rounded_up((a_size + b_size) * i64(sizeof(Element<T>)), 64))));
  Element<T>* const a_panels = b_panels + b_size;
  for (i64 j = 0; j < n; j += kSliceWidth) {
    const i64 width = smaller(n - j, kSliceWidth);
    for (i64 k0 = 0; k0 < k; k0 += kSlice) {
      const i64 depth = smaller(k - k0, kSlice);
      pack_panels<T, N>(trans_b ? b.at(j, k0) : b.at(k0, j), width, depth, trans_b, b_panels);
      for (i64 i = 0; i < m; i += kSliceRows) {
        const i64 rows = smaller(m - i, kSliceRows);
        pack_panels<T, M>(trans_a ? a.at(k0, i) : a.at(i, k0), rows, depth, !trans_a, a_panels);
        multiply_panels<T>(rows, width, steps_of<T>(depth), alpha, a_panels, b_panels,
                           c + i * ldc + j, ldc, accumulate || k0 > 0);
      }
    }
  }
  free(b_panels);
}

template <class T>
void block_product(i64 m, i64 n, i64 k, Sum<T> alpha, const T* a, i64 lda, bool trans_a, const T* b,
                   i64 ldb, bool trans_b, Sum<T>* c, i64 ldc, bool accumulate) {
  block_product<T>(m, n, k, alpha, Matrix<T>{a, lda}, trans_a, Matrix<T>{b, ldb}, trans_b, c, ldc,
                   accumulate);
}

}  // namespace quern::kernels::QUERN_TIER
