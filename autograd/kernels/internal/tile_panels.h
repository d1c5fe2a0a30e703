// SPDX-License-Identifier: MIT
// Products of bf16 operands in tile registers: panels of a are blocks of kBlockSide rows and
// kTileSide pairs of k, row by row; those of b are as all others are.
#pragma once

#include "quern/autograd/kernels/internal/panels.h"
#include "quern/autograd/kernels/internal/tiles.h"

namespace quern::kernels::QUERN_TIER {

// What a product needs of the processor while it runs.
template <class T>
struct ProductRegisters {};

#ifdef QUERN_TILES

template <>
struct ProductRegisters<bf16> : TileUse {};

inline constexpr int kBlockSide = 2 * int(kTileSide);
inline constexpr i64 kBlockElements = kBlockSide * kTileSide;  // of a, for kTileSide pairs of k

// As many values as a row of a register has pairs for, then zeros.
inline Panels<bf16>::Vector pairs_along(const bf16* x, i64 n) {
  if (n >= 2 * kTileSide) return Panels<bf16>::along(x);
  Panels<bf16>::Vector v = {};
  __builtin_memcpy(&v, x, sizeof(bf16) * size_t(n));
  return v;
}

// Rows [0, count) of a, `depth` values of each: contiguous with `across`, else columns of x.
inline void pack_blocks(Matrix<bf16> x, i64 count, i64 depth, bool across, std::uint32_t* panels) {
  using P = Panels<bf16>;
  using Vector = P::Vector;
  const i64 steps = steps_of<bf16>(depth), blocks = steps / kTileSide;
  for (i64 k = 0; k < blocks && !across; ++k) {
    for (i64 i = 0; i < rounded_up(count, kBlockSide); i += kTileSide) {
      const i64 columns = i < count ? smaller(count - i, kTileSide) : 0;
      Vector r[kTileSide];
      for (i64 pair = 0; pair < kTileSide; ++pair) {
        const i64 at = 2 * (k * kTileSide + pair);
        r[pair] = at < depth ? P::some(x.row(at) + i, at + 1 < depth ? x.row(at + 1) + i : nullptr,
                                       columns)
                             : Vector{};
      }
      transpose_rounds<std::uint32_t, kTileSide / 2>(r);
      std::uint32_t* to = panels + i / kBlockSide * kBlockSide * steps + k * kBlockElements +
                          i % kBlockSide * kTileSide;
      __builtin_memcpy(to, r, sizeof r);
    }
  }
  for (i64 i = 0; i < rounded_up(count, kBlockSide) && across; ++i) {
    const bf16* from = i < count ? x.row(i) : nullptr;
    std::uint32_t* to = panels + i / kBlockSide * kBlockSide * steps + i % kBlockSide * kTileSide;
    for (i64 k = 0; k < blocks; ++k) {
      const i64 at = 2 * k * kTileSide;
      const Vector v = from ? pairs_along(from + at, depth - at) : Vector{};
      __builtin_memcpy(to + k * kBlockElements, &v, sizeof v);
    }
  }
}

// c[16 Rows, 16 Columns] = its start + a b; the start is c with `accumulate`, else zeros.
template <int Rows, int Columns>
void multiply_registers(i64 steps, const std::uint32_t* a, const std::uint32_t* b, float* c,
                        i64 ldc, bool accumulate) {
  constexpr bool kBelow = Rows > 1, kBeside = Columns > 1;
  float *const beside = c + kTileSide, *const below = c + kTileSide * ldc;
  if (accumulate) {
    tile_load<0>(c, ldc);
    if constexpr (kBeside) tile_load<1>(beside, ldc);
    if constexpr (kBelow) tile_load<2>(below, ldc);
    if constexpr (kBelow && kBeside) tile_load<3>(below + kTileSide, ldc);
  } else {
    tile_zero<0>();
    if constexpr (kBeside) tile_zero<1>();
    if constexpr (kBelow) tile_zero<2>();
    if constexpr (kBelow && kBeside) tile_zero<3>();
  }
  for (i64 k = 0; k < steps; k += kTileSide) {
    tile_load<4>(a + k * kBlockSide, kTileSide);
    tile_load<6>(b + k * kBlockSide, kBlockSide);
    tile_multiply<0, 4, 6>();
    if constexpr (kBeside) {
      tile_load<7>(b + k * kBlockSide + kTileSide, kBlockSide);
      tile_multiply<1, 4, 7>();
    }
    if constexpr (kBelow) {
      tile_load<5>(a + k * kBlockSide + kTileSide * kTileSide, kTileSide);
      tile_multiply<2, 5, 6>();
    }
    if constexpr (kBelow && kBeside) tile_multiply<3, 5, 7>();
  }
  tile_store<0>(c, ldc);
  if constexpr (kBeside) tile_store<1>(beside, ldc);
  if constexpr (kBelow) tile_store<2>(below, ldc);
  if constexpr (kBelow && kBeside) tile_store<3>(below + kTileSide, ldc);
}

inline void multiply_registers_of(i64 rows, i64 columns, i64 steps, const std::uint32_t* a,
                                  const std::uint32_t* b, float* c, i64 ldc, bool accumulate) {
  if (rows > kTileSide && columns > kTileSide) {
    multiply_registers<2, 2>(steps, a, b, c, ldc, accumulate);
  } else if (rows > kTileSide) {
    multiply_registers<2, 1>(steps, a, b, c, ldc, accumulate);
  } else if (columns > kTileSide) {
    multiply_registers<1, 2>(steps, a, b, c, ldc, accumulate);
  } else {
    multiply_registers<1, 1>(steps, a, b, c, ldc, accumulate);
  }
}

// c[rows, columns] (+)= alpha * a b for up to kBlockSide of either. Whole registers are summed
// where they belong, others in a buffer, in the same order: from c on, but for an alpha that is not
// one.
inline void multiply_block(i64 rows, i64 columns, i64 steps, float alpha, const std::uint32_t* a,
                           const std::uint32_t* b, float* c, i64 ldc, bool accumulate) {
  if (alpha == 1.0f && rows % kTileSide == 0 && columns % kTileSide == 0) {
    return multiply_registers_of(rows, columns, steps, a, b, c, ldc, accumulate);
  }
  alignas(64) float buffer[kBlockSide * kBlockSide];
  const bool from_c = accumulate && alpha == 1.0f;
  if (from_c) {
    __builtin_memset(buffer, 0, sizeof buffer);
    for (i64 i = 0; i < rows; ++i) {
      for (i64 j = 0; j < columns; ++j) buffer[i * kBlockSide + j] = c[i * ldc + j];
    }
  }
  multiply_registers_of(rows, columns, steps, a, b, buffer, kBlockSide, from_c);
  for (i64 i = 0; i < rows; ++i) {
    const float* sum = buffer + i * kBlockSide;
    float* to = c + i * ldc;
    for (i64 j = 0; j < columns; ++j) {
      to[j] = accumulate && !from_c ? to[j] + alpha * sum[j] : alpha * sum[j];
    }
  }
}

#endif

}  // namespace quern::kernels::QUERN_TIER
