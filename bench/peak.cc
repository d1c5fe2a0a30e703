// SPDX-License-Identifier: MIT
#include "bench/peak.h"

#include <algorithm>

#include "bench/stopwatch.h"
#include "quern/autograd/kernels/cpu.h"
#include "quern/autograd/kernels/parallel.h"

#ifdef __x86_64__
#include <immintrin.h>

#include "quern/autograd/kernels/internal/tiles.h"
#endif

namespace quern::bench {

#ifdef __x86_64__
namespace {

constexpr int kSums = 12;  // more than the latency of any of these instructions
constexpr i64 kTurns = 1 << 18;

// What a loop of kTurns computed, which has to be used.
volatile float sink;

__attribute__((target("avx512f,avx512bf16"))) void multiply_pairs() {
  __m512 sum[kSums];
#pragma GCC unroll 12
  for (int s = 0; s < kSums; ++s) sum[s] = _mm512_set1_ps(1);
  const __m512bh a = (__m512bh)_mm512_set1_epi32(int(0x3f003f00 + sink)), b = a;
  for (i64 i = 0; i < kTurns; ++i) {
#pragma GCC unroll 12
    for (int s = 0; s < kSums; ++s) {
      sum[s] = _mm512_dpbf16_ps(sum[s], a, b);
      asm volatile("" : "+v"(sum[s]));
    }
  }
#pragma GCC unroll 12
  for (int s = 0; s < kSums; ++s) sink = sink + 0 * _mm512_cvtss_f32(sum[s]);
}

__attribute__((target("avx512f"))) void multiply_512() {
  __m512 sum[kSums];
#pragma GCC unroll 12
  for (int s = 0; s < kSums; ++s) sum[s] = _mm512_set1_ps(1);
  const __m512 a = _mm512_set1_ps(0.5f + sink);
  for (i64 i = 0; i < kTurns; ++i) {
#pragma GCC unroll 12
    for (int s = 0; s < kSums; ++s) {
      sum[s] = _mm512_fmadd_ps(sum[s], a, a);
      asm volatile("" : "+v"(sum[s]));
    }
  }
#pragma GCC unroll 12
  for (int s = 0; s < kSums; ++s) sink = sink + 0 * _mm512_cvtss_f32(sum[s]);
}

__attribute__((target("avx2,fma"))) void multiply_256() {
  __m256 sum[kSums];
#pragma GCC unroll 12
  for (int s = 0; s < kSums; ++s) sum[s] = _mm256_set1_ps(1);
  const __m256 a = _mm256_set1_ps(0.5f + sink);
  for (i64 i = 0; i < kTurns; ++i) {
#pragma GCC unroll 12
    for (int s = 0; s < kSums; ++s) {
      sum[s] = _mm256_fmadd_ps(sum[s], a, a);
      asm volatile("" : "+x"(sum[s]));
    }
  }
#pragma GCC unroll 12
  for (int s = 0; s < kSums; ++s) sink = sink + 0 * _mm256_cvtss_f32(sum[s]);
}

constexpr i64 kTileTurns = kTurns / 16;

void multiply_tiles() {
  using namespace kernels::bench_peak;
  alignas(64) std::uint32_t operands[4][kTileSide * kTileSide];
  std::uint32_t bits = 1;
  for (auto& tile : operands) {  // pairs of random numbers from 1 to 2
    for (auto& x : tile) x = ((bits = bits * 1664525 + 1013904223) & 0x007f007f) | 0x3f803f80;
  }
  const TileUse use;
  tile_zero<0>();
  tile_zero<1>();
  tile_zero<2>();
  tile_zero<3>();
  for (i64 i = 0; i < kTileTurns; ++i) {
    tile_load<4>(operands[0], kTileSide);
    tile_load<5>(operands[1], kTileSide);
    tile_load<6>(operands[2], kTileSide);
    tile_load<7>(operands[3], kTileSide);
    tile_multiply<0, 4, 6>();
    tile_multiply<1, 4, 7>();
    tile_multiply<2, 5, 6>();
    tile_multiply<3, 5, 7>();
  }
}

struct Loop {
  void (*run)();
  double flops;
};

Loop loop_of(KernelSet set, DType operands) {
  const bool halves = operands == DType::bf16;
  if (halves && set == KernelSet::amx) {
    return {multiply_tiles, 4.0 * 2 * 16 * 16 * 32 * double(kTileTurns)};
  }
  const double lanes = 2.0 * kSums * double(kTurns);
  if (halves && set >= KernelSet::avx512_bf16) return {multiply_pairs, 32 * lanes};
  if (set >= KernelSet::avx512) return {multiply_512, 16 * lanes};
  if (set == KernelSet::avx2) return {multiply_256, 8 * lanes};
  return {nullptr, 0};
}

}  // namespace

double measure_peak(DType operands) {
  const Loop loop = loop_of(kernel_set(), operands);
  if (loop.run == nullptr) return 0;
  const i64 tasks = 16 * num_threads();
  double best = 0;
  for (int round = 0; round < 6; ++round) {
    Stopwatch watch;
    parallel_for(tasks, [&](i64) { loop.run(); });
    best = std::max(best, loop.flops * double(tasks) / watch.lap());
  }
  return best;
}

#else
double measure_peak(DType) { return 0; }
#endif

}  // namespace quern::bench
