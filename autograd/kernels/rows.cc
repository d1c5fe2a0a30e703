// SPDX-License-Identifier: MIT
// Compiled once for each tier; see internal/tier.h.
#include "quern/autograd/kernels/rows.h"

#include "quern/autograd/kernels/internal/row_loops.h"
#include "quern/autograd/kernels/parallel.h"

namespace quern::kernels::QUERN_TIER {
namespace {

constexpr i64 kRowChunk = 64;

}  // namespace

template <class T>
void gather_rows(const GatherRows<T>& g) {
  parallel_chunks(g.rows, kRowChunk, [&](i64 begin, i64 end) {
    for (i64 i = begin; i < end; ++i) {
      copy_row(g.x + g.index[i] * g.width, g.y + i * g.width, g.width);
    }
  });
}

template <class T>
void combine_rows(const CombineRows<T>& c) {
  parallel_chunks(c.tokens, kRowChunk, [&](i64 begin, i64 end) {
    for (i64 t = begin; t < end; ++t) {
      T* y = c.y + t * c.width;
      if (!c.add) {
        for (i64 i = 0; i < c.width; ++i) y[i] = 0;
      }
      for (i64 k = t * c.top_k; k < (t + 1) * c.top_k; ++k) {
        if (c.index[k] < 0) continue;
        add_row(c.weight ? c.weight[k] : T(1), c.x + c.index[k] * c.width, y, c.width);
      }
    }
  });
}

template <class T>
void combine_rows_backward(const CombineRowsBackward<T>& c) {
  parallel_chunks(c.tokens, kRowChunk, [&](i64 begin, i64 end) {
    for (i64 k = begin * c.top_k; k < end * c.top_k; ++k) {
      if (c.index[k] < 0) {
        if (c.dweight && !c.add_dweight) c.dweight[k] = 0;
        continue;
      }
      const T* dy = c.dy + k / c.top_k * c.width;
      const T weight = c.weight ? c.weight[k] : T(1);
      if (c.dx) {
        T* dx = c.dx + c.index[k] * c.width;
        if (c.add_dx) {
          add_row(weight, dy, dx, c.width);
        } else {
          for (i64 i = 0; i < c.width; ++i) dx[i] = weight * dy[i];
        }
      }
      if (c.dweight) {
        const T d = dot_rows(c.x + c.index[k] * c.width, dy, c.width);
        c.dweight[k] = c.add_dweight ? c.dweight[k] + d : d;
      }
    }
  });
}

template <class T>
void scatter_add_rows(const ScatterAddRows<T>& s) {
  // Threads share columns, not rows: each adds to its columns in the order of the rows.
  parallel_chunks(s.width, 64, [&](i64 begin, i64 end) {
    for (i64 i = 0; i < s.rows; ++i) {
      add_row(T(1), s.x + i * s.width + begin, s.y + s.index[i] * s.width + begin, end - begin);
    }
  });
}

QUERN_ROWS_KERNELS(QUERN_INSTANTIATE)
QUERN_INSTANTIATE_BF16(gather_rows, GatherRows)

}  // namespace quern::kernels::QUERN_TIER
