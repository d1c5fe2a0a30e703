// SPDX-License-Identifier: MIT
// Operands of products copied into panels, which the inner loop reads in order: in the format that
// the instructions of the tier multiply best.
#pragma once

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

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

// What a panel holds of operands of type T: an Element for kDeep consecutive values of k.
//   along(x)                  a vector of elements of one row, from its successive values of k
//   across(x, ld, n, deep)    a vector of elements of n columns, from `deep` rows of values
//   one(x, step, deep)        an element from `deep` values `step` apart, then zeros
//   multiply_add(a, b, sum)   sum + a * b, over the values of k in an element
template <class T>
struct Panels {
  using Element = T;
  using Vector = typename Simd<T>::Vector;
  static constexpr i64 kDeep = 1;

  static Vector along(const T* x) { return Simd<T>::load(x); }
  static Vector across(const T* x, i64, int n, i64) {
    Vector v = {};
    __builtin_memcpy(&v, x, size_t(n) * sizeof(T));
    return v;
  }
  static T one(const T* x, i64, i64) { return *x; }
  static Vector multiply_add(T a, Vector b, Vector sum) { return sum + a * b; }
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
  static Vector across(const bf16* x, i64 ld, int n, i64 deep) {
    const __mmask16 mask = __mmask16((1u << n) - 1);
    const __m256i first = _mm256_maskz_loadu_epi16(mask, x);
    const __m256i second =
        deep > 1 ? _mm256_maskz_loadu_epi16(mask, x + ld) : _mm256_setzero_si256();
    return (Vector)_mm512_or_si512(_mm512_cvtepu16_epi32(first),
                                   _mm512_slli_epi32(_mm512_cvtepu16_epi32(second), 16));
  }
  static Element one(const bf16* x, i64 step, i64 deep) {
    return Element(x[0].bits) | (deep > 1 ? Element(x[step].bits) << 16 : 0);
  }
  static Simd<float>::Vector multiply_add(Element a, Vector b, Simd<float>::Vector sum) {
    return (Simd<float>::Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(int(a)),
                                                 (__m512bh)b);
  }
};

#else

// As f32: their products are exact.
template <>
struct Panels<bf16> {
  using Element = float;
  using Vector = Simd<float>::Vector;
  static constexpr i64 kDeep = 1;

  static Vector along(const bf16* x) {
    typedef std::uint16_t Half __attribute__((vector_size(kVectorBytes / 2)));
    Half half;
    __builtin_memcpy(&half, x, sizeof half);
    return (Vector)(__builtin_convertvector(half, Simd<std::uint32_t>::Vector) << 16);
  }
  static Vector across(const bf16* x, i64, int n, i64) {
    if (n == Simd<float>::kWidth) return along(x);
    Vector v = {};
    for (int j = 0; j < n; ++j) v[j] = float(x[j]);
    return v;
  }
  static float one(const bf16* x, i64, i64) { return float(*x); }
  static Vector multiply_add(float a, Vector b, Vector sum) { return sum + a * b; }
};

#endif

// Elements in a row of a panel for `depth` values of k.
template <class T>
i64 steps_of(i64 depth) {
  return (depth + Panels<T>::kDeep - 1) / Panels<T>::kDeep;
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

// panel[k][0..Width) = x[i][k] for i < count, rows of x `ld` apart, then zeros; k counts elements.
template <class T, int Width>
void pack_rows(const T* x, i64 ld, i64 count, i64 depth, typename Panels<T>::Element* panel) {
  using P = Panels<T>;
  using E = typename P::Element;
  constexpr int W = Simd<E>::kWidth;
  const i64 steps = steps_of<T>(depth), whole = depth / P::kDeep;
  for (int part = 0; part < Width; part += W) {
    const i64 rows = count - part;
    const size_t bytes = sizeof(E) * size_t(Width - part < W ? Width - part : W);
    i64 k = 0;
    for (; k + W <= whole; k += W) {
      typename P::Vector r[W];
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) {
        r[i] = i < rows ? P::along(x + (part + i) * ld + k * P::kDeep) : typename P::Vector{};
      }
      transpose_rounds<E, W / 2>(r);
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) __builtin_memcpy(panel + (k + i) * Width + part, &r[i], bytes);
    }
    for (; k < steps; ++k) {
      for (int j = 0; j < W && part + j < Width; ++j) {
        panel[k * Width + part + j] =
            j < rows ? P::one(x + (part + j) * ld + k * P::kDeep, 1, depth - k * P::kDeep) : E(0);
      }
    }
  }
}

// panel[k][0..Width) = x[k][0..count), then zeros; k counts elements.
template <class T, int Width>
void pack_columns(const T* x, i64 ld, i64 count, i64 depth, typename Panels<T>::Element* panel) {
  using P = Panels<T>;
  using E = typename P::Element;
  constexpr int W = Simd<E>::kWidth;
  for (i64 k = 0; k * P::kDeep < depth; ++k) {
    const T* from = x + k * P::kDeep * ld;
#pragma GCC unroll 4
    for (int part = 0; part < Width; part += W) {
      const int room = Width - part < W ? Width - part : W;
      const i64 left = count - part;
      const auto v = left >= room ? P::across(from + part, ld, room, depth - k * P::kDeep)
                     : left > 0   ? P::across(from + part, ld, int(left), depth - k * P::kDeep)
                                  : typename P::Vector{};
      __builtin_memcpy(panel + k * Width + part, &v, sizeof(E) * size_t(room));
    }
  }
}

// The panels of one slice of an operand: rows (or columns) [0, count) of it, `depth` deep. `across`
// says that the extent that is summed over is the one that is contiguous in memory.
template <class T, int Width>
void pack_panels(const T* x, i64 ld, i64 count, i64 depth, bool across,
                 typename Panels<T>::Element* panels) {
  const i64 steps = steps_of<T>(depth);
  if (across) {
    for (i64 i = 0; i < count; i += Width) {
      pack_rows<T, Width>(x + i * ld, ld, count - i < Width ? count - i : Width, depth,
                          panels + i * steps);
    }
    return;
  }
  // A few k at a time, so that memory is read along its rows and each page is met once.
  for (i64 k = 0; k < depth; k += kPackDepth) {
    const i64 some = depth - k < kPackDepth ? depth - k : kPackDepth;
    for (i64 i = 0; i < count; i += Width) {
      pack_columns<T, Width>(x + k * ld + i, ld, count - i < Width ? count - i : Width, some,
                             panels + i * steps + k / Panels<T>::kDeep * Width);
    }
  }
}

}  // namespace quern::kernels::QUERN_TIER
