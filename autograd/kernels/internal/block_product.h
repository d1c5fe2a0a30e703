// SPDX-License-Identifier: MIT
// One matrix product on one thread, for the kernel files, in the instructions of the tier it is
// compiled for.
//
// The scheme is that of GotoBLAS (Goto and van de Geijn, 2008): both operands are copied into
// panels that the inner loop reads in order, a slice of b that stays in the second-level cache and
// a panel of a that stays in the first, and a tile of c is held in registers (with AMX: those that
// tile_panels.h multiplies). An element of c is a chain of multiply-adds over k within each slice
// of kDepth, and slices are added in order: its bits depend neither on m and n nor on where the
// element lies, so a row's result does not depend on how many rows there are.
#pragma once

#include <stdlib.h>

#include "quern/autograd/kernels/internal/panels.h"
#include "quern/autograd/kernels/internal/tile_panels.h"

namespace quern::kernels::QUERN_TIER {

inline constexpr i64 kDepth = 256;        // of a slice, in elements of panels
inline constexpr i64 kSliceWidth = 1024;  // columns of b in a slice

// T: of the operands; c and the sums are of the type Sum<T>.
template <class T>
inline constexpr i64 kTileColumns = 2 * Simd<Sum<T>>::kWidth;

// With AVX-512: 28 registers of c, 2 of b, and a comes from memory.
template <class T>
inline constexpr int kTileRows = kVectorBytes == 64   ? 14
                                 : kVectorBytes == 32 ? 6
                                                      : 4;
#ifdef QUERN_TILES
template <>
inline constexpr int kTileRows<bf16> = kBlockSide;
#endif
template <class T>
inline constexpr i64 kSliceRows =
    (kTileRows<T> > 14 ? 8 : 16) * kTileRows<T>;  // rows of a in a slice

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
    const Element<T>* ak = a + k * kTileRows<T>;
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
  constexpr int kMost = kTileRows<T>, kMiddle = kMost < 8 ? kMost : 8;
  if constexpr (kMost > 8) {
    if (rows > 8) return tile<T, kMost>(steps, a, b, alpha, c, ldc, accumulate);
  }
  if constexpr (kMost > 4) {
    if (rows > 4) return tile<T, kMiddle>(steps, a, b, alpha, c, ldc, accumulate);
  }
  if (rows > 2) return tile<T, 4>(steps, a, b, alpha, c, ldc, accumulate);
  if (rows > 1) return tile<T, 2>(steps, a, b, alpha, c, ldc, accumulate);
  tile<T, 1>(steps, a, b, alpha, c, ldc, accumulate);
}

// Rows of c that tile_of() touches for `rows` of them.
template <class T>
i64 touched_rows(i64 rows) {
  if (rows > 8) return kTileRows<T>;
  if (rows > 4) return kTileRows<T> < 8 ? kTileRows<T> : 8;
  return rows > 2 ? 4 : rows;
}

// A tile at the edge of c goes through a buffer of its own.
template <class T>
void edge_tile(i64 rows, i64 columns, i64 steps, const Element<T>* a, const Element<T>* b,
               Sum<T> alpha, Sum<T>* c, i64 ldc, bool accumulate) {
  constexpr i64 N = kTileColumns<T>;
  Sum<T> buffer[kTileRows<T> * N];
  tile_of<T>(rows, steps, a, b, alpha, buffer, N, false);
  for (i64 i = 0; i < rows; ++i) {
    for (i64 j = 0; j < columns; ++j) {
      c[i * ldc + j] = accumulate ? c[i * ldc + j] + buffer[i * N + j] : buffer[i * N + j];
    }
  }
}

// rows x columns of c, of a whole tile or one at an edge.
template <class T>
void multiply_tile(i64 rows, i64 columns, i64 steps, Sum<T> alpha, const Element<T>* a,
                   const Element<T>* b, Sum<T>* c, i64 ldc, bool accumulate) {
  if (columns == kTileColumns<T> && touched_rows<T>(rows) == rows) {
    tile_of<T>(rows, steps, a, b, alpha, c, ldc, accumulate);
  } else {
    edge_tile<T>(rows, columns, steps, a, b, alpha, c, ldc, accumulate);
  }
}
#ifdef QUERN_TILES
template <>
inline void multiply_tile<bf16>(i64 rows, i64 columns, i64 steps, float alpha,
                                const std::uint32_t* a, const std::uint32_t* b, float* c, i64 ldc,
                                bool accumulate) {
  multiply_block(rows, columns, steps, alpha, a, b, c, ldc, accumulate);
}
#endif

template <class T>
void multiply_panels(i64 m, i64 n, i64 steps, Sum<T> alpha, const Element<T>* a_panels,
                     const Element<T>* b_panels, Sum<T>* c, i64 ldc, bool accumulate) {
  constexpr i64 M = kTileRows<T>, N = kTileColumns<T>;
  for (i64 i = 0; i < m; i += M) {
    const i64 rows = smaller(m - i, M);
    for (i64 j = 0; j < n; j += N) {
      multiply_tile<T>(rows, smaller(n - j, N), steps, alpha, a_panels + i * steps,
                       b_panels + j * steps, c + i * ldc + j, ldc, accumulate);
    }
  }
}

// A slice of a, as multiply_tile reads it.
template <class T>
void pack_left(Matrix<T> x, i64 count, i64 depth, bool across, Element<T>* panels) {
  pack_panels<T, kTileRows<T>>(x, count, depth, across, panels);
}
#ifdef QUERN_TILES
template <>
inline void pack_left<bf16>(Matrix<bf16> x, i64 count, i64 depth, bool across,
                            std::uint32_t* panels) {
  pack_blocks(x, count, depth, across, panels);
}
#endif

// c[m, n] (+)= alpha * op(a) * op(b); the arguments as in Gemm. Takes one piece of the heap, of
// bounded size.
template <class T>
void block_product(i64 m, i64 n, i64 k, Sum<T> alpha, Matrix<T> a, bool trans_a, Matrix<T> b,
                   bool trans_b, Sum<T>* c, i64 ldc, bool accumulate) {
  constexpr int M = kTileRows<T>, N = int(kTileColumns<T>);
  constexpr i64 kSliceM = kSliceRows<T>, kSlice = kDepth * Panels<T>::kDeep;
  if (k == 0 && !accumulate) {
    for (i64 i = 0; i < m; ++i) {
      for (i64 j = 0; j < n; ++j) c[i * ldc + j] = 0;
    }
  }
  if (m == 0 || n == 0 || k == 0) return;
  [[maybe_unused]] const ProductRegisters<T> registers;
  const i64 deepest = steps_of<T>(smaller(k, kSlice));
  const i64 b_size = rounded_up(smaller(n, kSliceWidth), N) * deepest;
  const i64 a_size = rounded_up(smaller(m, kSliceM), M) * deepest;
  // The panels of b first, whole vectors each, so that both begin at a vector's boundary.
  Element<T>* const b_panels = static_cast<Element<T>*>(
      aligned_alloc(64, size_t(rounded_up((a_size + b_size) * i64(sizeof(Element<T>)), 64))));
  Element<T>* const a_panels = b_panels + b_size;
  for (i64 j = 0; j < n; j += kSliceWidth) {
    const i64 width = smaller(n - j, kSliceWidth);
    for (i64 k0 = 0; k0 < k; k0 += kSlice) {
      const i64 depth = smaller(k - k0, kSlice);
      pack_panels<T, N>(trans_b ? b.at(j, k0) : b.at(k0, j), width, depth, trans_b, b_panels);
      for (i64 i = 0; i < m; i += kSliceM) {
        const i64 rows = smaller(m - i, kSliceM);
        pack_left<T>(trans_a ? a.at(k0, i) : a.at(i, k0), rows, depth, !trans_a, a_panels);
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
