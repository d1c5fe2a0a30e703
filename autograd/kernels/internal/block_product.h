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

#include <utility>

#include "quern/autograd/kernels/internal/tier.h"

namespace quern::kernels::QUERN_TIER {

#if defined(__AVX512F__)
inline constexpr i64 kVectorBytes = 64;
inline constexpr int kTileRows = 14;  // 28 registers of c, 2 of b, and a comes from memory
#elif defined(__AVX__)
inline constexpr i64 kVectorBytes = 32;
inline constexpr int kTileRows = 6;
#else
inline constexpr i64 kVectorBytes = 16;
inline constexpr int kTileRows = 4;
#endif
inline constexpr i64 kDepth = 256;                 // of a slice
inline constexpr i64 kSliceWidth = 1024;           // columns of b in a slice
inline constexpr i64 kSliceRows = 16 * kTileRows;  // rows of a in a slice
inline constexpr i64 kPackDepth = 16;

template <class T>
struct Simd {
  typedef T Vector __attribute__((vector_size(kVectorBytes)));
  static constexpr int kWidth = int(kVectorBytes / i64(sizeof(T)));
  static constexpr int kTileColumns = 2 * kWidth;

  static Vector load(const T* x) {
    Vector v;
    __builtin_memcpy(&v, x, sizeof v);
    return v;
  }
  static void store(T* x, Vector v) { __builtin_memcpy(x, &v, sizeof v); }
};

// Swaps blocks of H columns between two vectors; log2(width) rounds of it transpose a square.
template <class T, int H, size_t... I>
inline void exchange(typename Simd<T>::Vector& a, typename Simd<T>::Vector& b,
                     std::index_sequence<I...>) {
  constexpr int W = Simd<T>::kWidth;
  const auto u = a, v = b;
  a = __builtin_shufflevector(u, v, ((I & H) == 0 ? int(I) : W + int(I) - H)...);
  b = __builtin_shufflevector(u, v, ((I & H) == 0 ? int(I) + H : W + int(I))...);
}

template <class T, int H>
inline void transpose_rounds(typename Simd<T>::Vector* r) {
  constexpr int W = Simd<T>::kWidth;
#pragma GCC unroll 16
  for (int i = 0; i < W; ++i) {
    if ((i & H) == 0) exchange<T, H>(r[i], r[i + H], std::make_index_sequence<size_t(W)>());
  }
  if constexpr (H > 1) transpose_rounds<T, H / 2>(r);
}

// panel[k][0..Width) = x[i][k] for i < count, rows of x `ld` apart, then zeros.
template <class T, int Width>
void pack_rows(const T* x, i64 ld, i64 count, i64 depth, T* panel) {
  using S = Simd<T>;
  constexpr int W = S::kWidth;
  for (int part = 0; part < Width; part += W) {
    const i64 rows = count - part;
    const size_t bytes = sizeof(T) * size_t(Width - part < W ? Width - part : W);
    i64 k = 0;
    for (; k + W <= depth; k += W) {
      typename S::Vector r[W];
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) {
        r[i] = i < rows ? S::load(x + (part + i) * ld + k) : typename S::Vector{};
      }
      transpose_rounds<T, W / 2>(r);
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) __builtin_memcpy(panel + (k + i) * Width + part, &r[i], bytes);
    }
    for (; k < depth; ++k) {
      for (int j = 0; j < W && part + j < Width; ++j) {
        panel[k * Width + part + j] = j < rows ? x[(part + j) * ld + k] : T(0);
      }
    }
  }
}

// panel[k][0..Width) = x[k][0..count), then zeros.
template <class T, int Width>
void pack_columns(const T* x, i64 ld, i64 count, i64 depth, T* panel) {
  if (count == Width) {
    for (i64 k = 0; k < depth; ++k)
      __builtin_memcpy(panel + k * Width, x + k * ld, Width * sizeof(T));
    return;
  }
  for (i64 k = 0; k < depth; ++k) {
    for (i64 j = 0; j < Width; ++j) panel[k * Width + j] = j < count ? x[k * ld + j] : T(0);
  }
}

// c[rows, 2 vectors] (+)= alpha * a b over `depth`, from panels; a's panel is kTileRows wide.
template <class T, int Rows>
void tile(i64 depth, const T* a, const T* b, T alpha, T* c, i64 ldc, bool accumulate) {
  using S = Simd<T>;
  constexpr int W = S::kWidth;
  typename S::Vector sum[Rows][2] = {};
  for (i64 k = 0; k < depth; ++k) {
    const auto b0 = S::load(b + k * 2 * W), b1 = S::load(b + k * 2 * W + W);
    const T* ak = a + k * kTileRows;
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      sum[i][0] += ak[i] * b0;
      sum[i][1] += ak[i] * b1;
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      T* to = c + i * ldc + j * W;
      const auto v = alpha * sum[i][j];
      S::store(to, accumulate ? S::load(to) + v : v);
    }
  }
}

template <class T>
void tile_of(i64 rows, i64 depth, const T* a, const T* b, T alpha, T* c, i64 ldc, bool accumulate) {
  if constexpr (kTileRows > 8) {
    if (rows > 8) return tile<T, kTileRows>(depth, a, b, alpha, c, ldc, accumulate);
  }
  if constexpr (kTileRows > 4) {
    if (rows > 4) {
      return tile < T, kTileRows < 8 ? kTileRows : 8 > (depth, a, b, alpha, c, ldc, accumulate);
    }
  }
  if (rows > 2) return tile<T, 4>(depth, a, b, alpha, c, ldc, accumulate);
  if (rows > 1) return tile<T, 2>(depth, a, b, alpha, c, ldc, accumulate);
  tile<T, 1>(depth, a, b, alpha, c, ldc, accumulate);
}

// Rows of c that tile_of() touches for `rows` of them.
inline i64 touched_rows(i64 rows) {
  if (rows > 8) return kTileRows;
  if (rows > 4) return kTileRows < 8 ? kTileRows : 8;
  return rows > 2 ? 4 : rows;
}

// A tile at the edge of c goes through a buffer of its own.
template <class T>
void edge_tile(i64 rows, i64 columns, i64 depth, const T* a, const T* b, T alpha, T* c, i64 ldc,
               bool accumulate) {
  constexpr i64 N = Simd<T>::kTileColumns;
  T buffer[kTileRows * N];
  tile_of<T>(rows, depth, a, b, alpha, buffer, N, false);
  for (i64 i = 0; i < rows; ++i) {
    for (i64 j = 0; j < columns; ++j) {
      c[i * ldc + j] = accumulate ? c[i * ldc + j] + buffer[i * N + j] : buffer[i * N + j];
    }
  }
}

// The panels of one slice of an operand: rows (or columns) [0, count) of it, `depth` deep. `across`
// says that the extent that is summed over is the one that is contiguous in memory.
template <class T, int Width>
void pack_panels(const T* x, i64 ld, i64 count, i64 depth, bool across, T* panels) {
  if (across) {
    for (i64 i = 0; i < count; i += Width) {
      pack_rows<T, Width>(x + i * ld, ld, count - i < Width ? count - i : Width, depth,
                          panels + i * depth);
    }
    return;
  }
  // A few k at a time, so that memory is read along its rows and each page is met once.
  for (i64 k = 0; k < depth; k += kPackDepth) {
    const i64 some = depth - k < kPackDepth ? depth - k : kPackDepth;
    for (i64 i = 0; i < count; i += Width) {
      pack_columns<T, Width>(x + k * ld + i, ld, count - i < Width ? count - i : Width, some,
                             panels + i * depth + k * Width);
    }
  }
}

template <class T>
void multiply_panels(i64 m, i64 n, i64 depth, T alpha, const T* a_panels, const T* b_panels, T* c,
                     i64 ldc, bool accumulate) {
  constexpr i64 M = kTileRows, N = Simd<T>::kTileColumns;
  for (i64 i = 0; i < m; i += M) {
    const i64 rows = m - i < M ? m - i : M;
    for (i64 j = 0; j < n; j += N) {
      const i64 columns = n - j < N ? n - j : N;
      const T *a = a_panels + i * depth, *b = b_panels + j * depth;
      T* to = c + i * ldc + j;
      if (columns == N && touched_rows(rows) == rows) {
        tile_of<T>(rows, depth, a, b, alpha, to, ldc, accumulate);
      } else {
        edge_tile<T>(rows, columns, depth, a, b, alpha, to, ldc, accumulate);
      }
    }
  }
}

inline i64 smaller(i64 a, i64 b) { return a < b ? a : b; }
inline i64 rounded_up(i64 n, i64 to) { return (n + to - 1) / to * to; }

// c[m, n] (+)= alpha * op(a) * op(b); the arguments as in Gemm. Takes one piece of the heap, of
// bounded size.
template <class T>
void block_product(i64 m, i64 n, i64 k, T alpha, const T* a, i64 lda, bool trans_a, const T* b,
                   i64 ldb, bool trans_b, T* c, i64 ldc, bool accumulate) {
  constexpr int M = kTileRows, N = Simd<T>::kTileColumns;
  if (k == 0 && !accumulate) {
    for (i64 i = 0; i < m; ++i) {
      for (i64 j = 0; j < n; ++j) c[i * ldc + j] = 0;
    }
  }
  if (m == 0 || n == 0 || k == 0) return;
  const i64 deepest = smaller(k, kDepth), b_size = rounded_up(smaller(n, kSliceWidth), N) * deepest;
  const i64 a_size = rounded_up(smaller(m, kSliceRows), M) * deepest;
  // The panels of b first, whole vectors each, so that both begin at a vector's boundary.
  T* const b_panels = static_cast<T*>(
      aligned_alloc(64, size_t(rounded_up((a_size + b_size) * i64(sizeof(T)), 64))));
  T* const a_panels = b_panels + b_size;
  for (i64 j = 0; j < n; j += kSliceWidth) {
    const i64 width = smaller(n - j, kSliceWidth);
    for (i64 k0 = 0; k0 < k; k0 += kDepth) {
      const i64 depth = smaller(k - k0, kDepth);
      pack_panels<T, N>(b + (trans_b ? j * ldb + k0 : k0 * ldb + j), ldb, width, depth, trans_b,
                        b_panels);
      for (i64 i = 0; i < m; i += kSliceRows) {
        const i64 rows = smaller(m - i, kSliceRows);
        pack_panels<T, M>(a + (trans_a ? k0 * lda + i : i * lda + k0), lda, rows, depth, !trans_a,
                          a_panels);
        multiply_panels<T>(rows, width, depth, alpha, a_panels, b_panels, c + i * ldc + j, ldc,
                           accumulate || k0 > 0);
      }
    }
  }
  free(b_panels);
}

}  // namespace quern::kernels::QUERN_TIER
