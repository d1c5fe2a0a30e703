// SPDX-License-Identifier: MIT
// Rows of groups, cut into tasks, for the kernel files.
#pragma once

#include "quern/autograd/kernels/internal/block_product.h"
#include "quern/autograd/kernels/parallel.h"

namespace quern::kernels::QUERN_TIER {

inline i64 chunks(i64 n, i64 size) { return (n + size - 1) / size; }

// Rows of one group in a task.
template <class T>
inline constexpr i64 kGroupChunk = 2 * kSliceRows<T>;

// Calls f(group, first row, rows, piece) for every piece of [0, pieces) of every chunk of at most
// `size` rows of every group, whose rows are [offsets[g], offsets[g + 1]).
template <class F>
void parallel_groups(i64 groups, const i64* offsets, i64 size, i64 pieces, F&& f) {
  i64 tasks = 0;
  for (i64 g = 0; g < groups; ++g) tasks += chunks(offsets[g + 1] - offsets[g], size);
  parallel_for(tasks * pieces, [&](i64 i) {
    i64 g = 0, chunk = i / pieces;
    for (;; ++g) {
      const i64 own = chunks(offsets[g + 1] - offsets[g], size);
      if (chunk < own) break;
      chunk -= own;
    }
    const i64 begin = offsets[g] + chunk * size;
    f(g, begin, smaller(size, offsets[g + 1] - begin), i % pieces);
  });
}

}  // namespace quern::kernels::QUERN_TIER
