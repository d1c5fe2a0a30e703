// SPDX-License-Identifier: MIT
// Intel's tile registers (AMX), of which four sum a block of 32 x 32 elements of a product of bf16
// operands. The instructions are written out, because the compilers' intrinsics (GCC 12) neither
// say which memory they touch nor that a configuration is 64 bytes long. With QUERN_EMULATE_TILES
// loops do what the instructions are documented to do, for tests on processors without them.
#pragma once

#include "quern/autograd/kernels/internal/tier.h"

namespace quern::kernels::QUERN_TIER {

inline constexpr i64 kTileSide =
    16;  // rows of a register; elements of f32, or pairs of bf16, in each

// What follows may use the tile registers, on this thread, until it ends.
class TileUse {
 public:
  TileUse();
  ~TileUse();
  TileUse(const TileUse&) = delete;
  TileUse& operator=(const TileUse&) = delete;
};

// Registers Tile, A, B: 0 to 7. stride: elements between rows.
//   tile_zero      all elements are zero
//   tile_load      16 rows of 16 elements of 4 bytes
//   tile_store     the same
//   tile_multiply  Tile[16, 16] += A[16, 16 pairs] * B[16 pairs, 16]; within one instruction
//                  products are summed first, then added; subnormals count as zero
#ifndef QUERN_EMULATE_TILES

inline TileUse::TileUse() {
  // Palette 1; bytes in a row of each register from byte 16 on, rows from byte 48 on.
  alignas(64) std::uint8_t configuration[64] = {1};
  for (int t = 0; t < 8; ++t) {
    configuration[16 + 2 * t] = 4 * kTileSide;
    configuration[48 + t] = kTileSide;
  }
  asm volatile("ldtilecfg %0" ::"m"(configuration) : "memory");
}
inline TileUse::~TileUse() { asm volatile("tilerelease" ::: "memory"); }

template <int Tile>
inline void tile_zero() {
  asm volatile("tilezero %%tmm%c0" ::"i"(Tile));
}
template <int Tile, class E>
inline void tile_load(const E* x, i64 stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(x), "r"(4 * stride), "i"(Tile) : "memory");
}
template <int Tile>
inline void tile_store(float* x, i64 stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(x), "r"(4 * stride), "i"(Tile) : "memory");
}
template <int Tile, int A, int B>
inline void tile_multiply() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(Tile), "i"(A), "i"(B));
}

#else

struct EmulatedTile {
  std::uint32_t word[kTileSide][kTileSide];
};
inline thread_local EmulatedTile emulated_tile[8];
inline thread_local bool emulated_tiles_in_use = false;

inline TileUse::TileUse() {
  if (emulated_tiles_in_use) __builtin_trap();
  emulated_tiles_in_use = true;
}
inline TileUse::~TileUse() { emulated_tiles_in_use = false; }

template <int Tile>
inline void tile_zero() {
  if (!emulated_tiles_in_use) __builtin_trap();
  emulated_tile[Tile] = {};
}
template <int Tile, class E>
inline void tile_load(const E* x, i64 stride) {
  static_assert(sizeof(E) == 4);
  if (!emulated_tiles_in_use) __builtin_trap();
  for (i64 i = 0; i < kTileSide; ++i) {
    __builtin_memcpy(emulated_tile[Tile].word[i], x + i * stride, 4 * kTileSide);
  }
}
template <int Tile>
inline void tile_store(float* x, i64 stride) {
  for (i64 i = 0; i < kTileSide; ++i) {
    __builtin_memcpy(x + i * stride, emulated_tile[Tile].word[i], 4 * kTileSide);
  }
}
template <int Tile, int A, int B>
inline void tile_multiply() {
  const auto number = [](std::uint32_t bits) {
    if ((bits & 0x7f800000u) == 0) bits &= 0x80000000u;
    float x;
    __builtin_memcpy(&x, &bits, sizeof x);
    return x;
  };
  const auto a = emulated_tile[A], b = emulated_tile[B];
  for (i64 i = 0; i < kTileSide; ++i) {
    for (i64 j = 0; j < kTileSide; ++j) {
      float first = 0, second = 0, sum;
      for (i64 k = 0; k < kTileSide; ++k) {
        const std::uint32_t x = a.word[i][k], y = b.word[k][j];
        first += number(x << 16) * number(y << 16);
        second += number(x & 0xffff0000u) * number(y & 0xffff0000u);
      }
      std::uint32_t& to = emulated_tile[Tile].word[i][j];
      __builtin_memcpy(&sum, &to, sizeof sum);
      sum += first + second;
      __builtin_memcpy(&to, &sum, sizeof sum);
    }
  }
}

#endif

}  // namespace quern::kernels::QUERN_TIER
