// SPDX-License-Identifier: MIT
// Operands of products copied into panels, which the inner loop reads in order: in the format that
// the instructions of the tier multiply best.
#pragma once

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#include <utility>

#include "quern/autograd/kernels/internal/tier.h"

// QUERN_TILES, of the build: products of bf16 are summed in tile registers.

namespace quern::kernels::QUERN_TIER {

#if defined(__AVX512F__)
inline constexpr i64 kVectorBytes = 64;
#elif defined(__AVX__)
inline constexpr i64 kVectorBytes = 32;
#else
inline constexpr i64 kVectorBytes = 16;
#endif
inline constexpr i64 kPackDepth = 16;

template <class T>
struct Simd {
  typedef T Vector __attribute__((vector_size(kVectorBytes)));
  static constexpr int kWidth = int(kVectorBytes / i64(sizeof(T)));

  static Vector load(const T* x) {
    Vector v;
    __builtin_memcpy(&v, x, sizeof v);
    return v;
  }
  static void store(T* x, Vector v) { __builtin_memcpy(x, &v, sizeof v); }
};

template <class E, int N>
struct VectorOf {
  typedef E Type __attribute__((vector_size(N * sizeof(E))));
};

// As many bf16 as a vector has elements of type T, as T.
template <class T>
typename Simd<T>::Vector widened(const bf16* x) {
  constexpr int W = Simd<T>::kWidth;
  using Floats = typename VectorOf<float, W>::Type;
  using Words = typename VectorOf<std::uint32_t, W>::Type;
  typename VectorOf<std::uint16_t, W>::Type halves;
  __builtin_memcpy(&halves, x, sizeof halves);
  return __builtin_convertvector((Floats)(__builtin_convertvector(halves, Words) << 16),
                                 typename Simd<T>::Vector);
}

// An operand in memory: its rows `ld` apart, or those whose numbers are listed.
template <class T>
struct Matrix {
  const T* data;
  i64 ld;
  const i32* rows = nullptr;

  const T* row(i64 r) const { return data + (rows ? i64(rows[r]) : r) * ld; }
  Matrix at(i64 r, i64 column) const {
    return rows ? Matrix{data + column, ld, rows + r} : Matrix{data + r * ld + column, ld};
  }
};

// What a panel holds of operands of type T: an Element for kDeep consecutive values of k.
//   along(x)                  a vector of elements of one row, from its successive values of k
//   across(x, next, n)        a vector of elements of n columns: of row x, and of the next with
//   pairs one(x, deep)              an element from `deep` successive values, then zeros
//   multiply_add(a, b, sum)   sum + a * b, over the values of k in an element
//   multiply_add_each(a, b, sum)   the same of a vector of elements each
template <class T>
struct Panels {
  using Element = T;
  using Vector = typename Simd<T>::Vector;
  static constexpr i64 kDeep = 1;

  static Vector along(const T* x) { return Simd<T>::load(x); }
  template <int N>
  static Vector across(const T* x, const T*) {
    Vector v = {};
    __builtin_memcpy(&v, x, N * sizeof(T));
    return v;
  }
  static Vector some(const T* x, const T*, i64 n) {
    Vector v = {};
    for (i64 j = 0; j < n; ++j) v[j] = x[j];
    return v;
  }
  static T one(const T* x, i64) { return *x; }
  static Vector multiply_add(T a, Vector b, Vector sum) { return sum + a * b; }
  static Vector multiply_add_each(Vector a, Vector b, Vector sum) { return sum + a * b; }
};

#ifdef __AVX512BF16__

// Pairs of values, which one instruction multiplies and adds to a sum in f32.
template <>
struct Panels<bf16> {
  using Element = std::uint32_t;
  using Vector = Simd<std::uint32_t>::Vector;
  static constexpr i64 kDeep = 2;

  static Vector along(const bf16* x) {
    Vector v;
    __builtin_memcpy(&v, x, sizeof v);
    return v;
  }
  // Without a next row: zeros.
  static Vector some(const bf16* x, const bf16* next, i64 n) {
    // From two vectors: the first of each, the second of each, ...
    const __m512i interleaved =
        _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6,
                         37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    const __mmask16 mask = __mmask16((1u << n) - 1);
    const __m256i first = _mm256_maskz_loadu_epi16(mask, x);
    const __m256i second = next ? _mm256_maskz_loadu_epi16(mask, next) : _mm256_setzero_si256();
    return (Vector)_mm512_permutex2var_epi16(_mm512_castsi256_si512(first), interleaved,
                                             _mm512_castsi256_si512(second));
  }
  template <int N>
  static Vector across(const bf16* x, const bf16* next) {
    return some(x, next, N);
  }
  static Element one(const bf16* x, i64 deep) {
    return Element(x[0].bits) | (deep > 1 ? Element(x[1].bits) << 16 : 0);
  }
  static Simd<float>::Vector multiply_add(Element a, Vector b, Simd<float>::Vector sum) {
    return multiply_add_each((Vector)_mm512_set1_epi32(int(a)), b, sum);
  }
  static Simd<float>::Vector multiply_add_each(Vector a, Vector b, Simd<float>::Vector sum) {
    return (Simd<float>::Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
  }
};

#else

// As f32: their products are exact.
template <>
struct Panels<bf16> {
  using Element = float;
  using Vector = Simd<float>::Vector;
  static constexpr i64 kDeep = 1;

  static Vector along(const bf16* x) { return widened<float>(x); }
  static Vector some(const bf16* x, const bf16*, i64 n) {
    Vector v = {};
    for (i64 j = 0; j < n; ++j) v[j] = float(x[j]);
    return v;
  }
  template <int N>
  static Vector across(const bf16* x, const bf16* next) {
    if constexpr (N == Simd<float>::kWidth) return along(x);
    return some(x, next, N);
  }
  static float one(const bf16* x, i64) { return float(*x); }
  static Vector multiply_add(float a, Vector b, Vector sum) { return sum + a * b; }
  static Vector multiply_add_each(Vector a, Vector b, Vector sum) { return sum + a * b; }
};

#endif

template <class T>
using Element = typename Panels<T>::Element;

// Panels are a multiple of so many elements deep, the last of them zeros.
template <class T>
inline constexpr i64 kStepsTogether = 1;
#ifdef QUERN_TILES
template <>
inline constexpr i64 kStepsTogether<bf16> = 16;
#endif

inline i64 smaller(i64 a, i64 b) { return a < b ? a : b; }
inline i64 rounded_up(i64 n, i64 to) { return (n + to - 1) / to * to; }

// Elements in a row of a panel for `depth` values of k.
template <class T>
i64 steps_of(i64 depth) {
  return rounded_up(depth, Panels<T>::kDeep * kStepsTogether<T>) / Panels<T>::kDeep;
}

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

// panel[k][0..Width) = row i of x at k, for i < count, then zeros; k counts elements.
template <class T, int Width>
void pack_rows(Matrix<T> x, i64 count, i64 depth, typename Panels<T>::Element* panel) {
  using P = Panels<T>;
  using E = typename P::Element;
  constexpr int W = Simd<E>::kWidth;
  const i64 steps = steps_of<T>(depth), whole = depth / P::kDeep;
  for (int part = 0; part < Width; part += W) {
    const i64 rows = count - part;
    const size_t bytes = sizeof(E) * size_t(Width - part < W ? Width - part : W);
    const T* row[W];
    for (int i = 0; i < W; ++i) row[i] = i < rows ? x.row(part + i) : nullptr;
    i64 k = 0;
    for (; k + W <= whole; k += W) {
      typename P::Vector r[W];
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) {
        r[i] = i < rows ? P::along(row[i] + k * P::kDeep) : typename P::Vector{};
      }
      transpose_rounds<E, W / 2>(r);
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) __builtin_memcpy(panel + (k + i) * Width + part, &r[i], bytes);
    }
    for (; k < steps; ++k) {
      for (int j = 0; j < W && part + j < Width; ++j) {
        panel[k * Width + part + j] = j < rows && k * P::kDeep < depth
                                          ? P::one(row[j] + k * P::kDeep, depth - k * P::kDeep)
                                          : E(0);
      }
    }
  }
}

// panel[k][0..Width) = row k of x, columns [0, count), then zeros; k counts elements.
template <class T, int Width>
void pack_columns(Matrix<T> x, i64 count, i64 depth, typename Panels<T>::Element* panel) {
  using P = Panels<T>;
  using E = typename P::Element;
  constexpr int W = Simd<E>::kWidth, kParts = (Width + W - 1) / W, kLast = Width - (kParts - 1) * W;
  for (i64 k = 0; k < depth; k += P::kDeep, panel += Width) {
    const T* from = x.row(k);
    const T* next = k + 1 < depth && P::kDeep > 1 ? x.row(k + 1) : nullptr;
#pragma GCC unroll 4
    for (int part = 0; part < kParts; ++part) {
      const i64 begin = part * W, left = count - begin;
      const T *at = from + begin, *after = next ? next + begin : nullptr;
      typename P::Vector v = {};
      if (part + 1 < kParts) {
        v = left >= W ? P::template across<W>(at, after) : P::some(at, after, left > 0 ? left : 0);
        __builtin_memcpy(panel + begin, &v, sizeof v);
      } else {
        v = left >= kLast ? P::template across<kLast>(at, after)
                          : P::some(at, after, left > 0 ? left : 0);
        __builtin_memcpy(panel + begin, &v, sizeof(E) * kLast);
      }
    }
  }
}

// The panels of one slice of an operand: rows (or columns) [0, count) of it, `depth` deep. `across`
// says that the extent that is summed over is the one that is contiguous in memory.
template <class T, int Width>
void pack_panels(Matrix<T> x, i64 count, i64 depth, bool across,
                 typename Panels<T>::Element* panels) {
  const i64 steps = steps_of<T>(depth);
  if (across) {
    for (i64 i = 0; i < count; i += Width) {
      pack_rows<T, Width>(x.at(i, 0), smaller(count - i, Width), depth, panels + i * steps);
    }
    return;
  }
  // A few k at a time, so that memory is read along its rows and each page is met once.
  for (i64 k = 0; k < depth; k += kPackDepth) {
    const i64 some = smaller(depth - k, kPackDepth);
    for (i64 i = 0; i < count; i += Width) {
      pack_columns<T, Width>(x.at(k, i), smaller(count - i, Width), some,
                             panels + i * steps + k / Panels<T>::kDeep * Width);
    }
  }
  const i64 packed = (depth + Panels<T>::kDeep - 1) / Panels<T>::kDeep;
  for (i64 i = 0; i < count && packed < steps; i += Width) {
    __builtin_memset(panels + i * steps + packed * Width, 0,
                     size_t((steps - packed) * Width) * sizeof(typename Panels<T>::Element));
  }
}

}  // namespace quern::kernels::QUERN_TIER
