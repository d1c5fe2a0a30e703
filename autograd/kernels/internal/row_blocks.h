// SPDX-License-Identifier: MIT
// Expressions over rows, for the kernel files: with Eigen, a block of elements at a time.
#pragma once

#include <Eigen/Core>
#include <cstdint>

#include "quern/autograd/kernels/internal/tier.h"

namespace quern::kernels::QUERN_TIER {

template <class T>
using Row = Eigen::Map<Eigen::Array<T, Eigen::Dynamic, 1>>;
template <class T>
using ConstRow = Eigen::Map<const Eigen::Array<T, Eigen::Dynamic, 1>>;

template <class T>
ConstRow<T> row(const T* x, i64 n) {
  return {x, n};
}
template <class T>
Row<T> row(T* x, i64 n) {
  return {x, n};
}

// Rows whose results go to bf16 are computed a block at a time. Aligned, since Eigen takes the
// elements before a boundary one by one, with other rounding. So are rows that do not begin at such
// a boundary, for a row's bits shall not depend on where it lies.
constexpr i64 kBoundary = 64;
constexpr i64 kBlock = 256;
template <class T>
struct alignas(kBoundary) BlockBuffer {
  T values[kBlock];
};

template <class T>
void round_row(const T* __restrict x, bf16* __restrict y, i64 n) {
  for (i64 i = 0; i < n; ++i) y[i] = bf16(float(x[i]));
}

template <class T>
void widen_row(const bf16* __restrict x, T* __restrict y, i64 n) {
  for (i64 i = 0; i < n; ++i) y[i] = T(float(x[i]));
}

// y[0..n) = bf16(expression(offset, count)), a block of the expression at a time.
template <class T, class F>
void round_blocks(i64 n, bf16* y, F&& expression) {
  BlockBuffer<T> buffer;
  for (i64 i = 0; i < n; i += kBlock) {
    const i64 some = n - i < kBlock ? n - i : kBlock;
    row(buffer.values, some) = expression(i, some);
    round_row(buffer.values, y + i, some);
  }
}

template <class T>
bool is_aligned(const T* x) {
  return reinterpret_cast<std::uintptr_t>(x) % kBoundary == 0;
}

// y[0..n) = expression(offset, count), a block of the expression at a time.
template <class T, class F>
void write_blocks(i64 n, T* y, F&& expression) {
  if (is_aligned(y)) {
    row(y, n) = expression(0, n);
    return;
  }
  BlockBuffer<T> buffer;
  for (i64 i = 0; i < n; i += kBlock) {
    const i64 some = n - i < kBlock ? n - i : kBlock;
    row(buffer.values, some) = expression(i, some);
    row(y + i, some) = row(buffer.values, some);
  }
}

// n <= kBlock values, in the type they are computed in.
template <class T>
void load_block(const T* __restrict x, Sum<T>* __restrict y, i64 n) {
  for (i64 i = 0; i < n; ++i) y[i] = Sum<T>(x[i]);
}
template <class T>
void store_block(const Sum<T>* __restrict x, T* __restrict y, i64 n) {
  for (i64 i = 0; i < n; ++i) y[i] = T(x[i]);
}

// y = silu(gate) * up.   gate_up: [2 * width], gate first;  y: [width], of T or bf16
template <class T, class Y>
void swiglu_row(const T* gate_up, Y* y, i64 width) {
  const auto gate = row(gate_up, width), up = row(gate_up + width, width);
  const auto of = [&](i64 i, i64 n) {
    return gate.segment(i, n) * up.segment(i, n) / (T(1) + (-gate.segment(i, n)).exp());
  };
  if constexpr (std::is_same_v<T, Y>) {
    write_blocks<T>(width, y, of);
  } else {
    round_blocks<T>(width, y, of);
  }
}

}  // namespace quern::kernels::QUERN_TIER
