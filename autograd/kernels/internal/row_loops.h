// SPDX-License-Identifier: MIT
// Loops over one row, for the kernel files; compiled for the tier, which vectorises them.
#pragma once

#include "quern/autograd/kernels/internal/tier.h"

namespace quern::kernels::QUERN_TIER {

template <class From, class To>
void copy_row(const From* __restrict x, To* __restrict y, i64 n) {
  for (i64 i = 0; i < n; ++i) y[i] = To(x[i]);
}

template <class T>
void add_row(T alpha, const T* __restrict x, T* __restrict y, i64 n) {
  for (i64 i = 0; i < n; ++i) y[i] += alpha * x[i];
}

// Sixteen partial sums in a fixed order, so that the loop is vectorised the same way everywhere.
template <class T>
T dot_rows(const T* __restrict x, const T* __restrict y, i64 n) {
  T part[16] = {};
  i64 i = 0;
  for (; i + 16 <= n; i += 16) {
    for (i64 j = 0; j < 16; ++j) part[j] += x[i + j] * y[i + j];
  }
  for (; i < n; ++i) part[i % 16] += x[i] * y[i];
  T sum = 0;
  for (i64 j = 0; j < 16; ++j) sum += part[j];
  return sum;
}

}  // namespace quern::kernels::QUERN_TIER
