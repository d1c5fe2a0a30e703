// SPDX-License-Identifier: MIT
// Compiled once for each tier; see internal/tier.h.
#include "quern/autograd/kernels/gemm.h"

#include "quern/autograd/kernels/internal/block_product.h"
#include "quern/autograd/kernels/internal/few_rows.h"
#include "quern/autograd/kernels/internal/groups.h"

namespace quern::kernels::QUERN_TIER {
namespace {

// Chunks are as large as slices allow, since each packs both operands anew, but a multiple of the
// threads in number. How c is cut does not show in its bits; products of few rows alone are summed
// otherwise.
constexpr i64 kColumnChunk = kSliceWidth;
// Tile registers multiply faster than operands are packed, so b is packed for more rows.
template <class T>
constexpr i64 kRowChunk = (kStepsTogether<T> > 1 ? 8 : 4) * kSliceRows<T>;

template <class T>
i64 row_chunk(i64 m, i64 column_chunks) {
  const i64 threads = num_threads();
  i64 pieces = chunks(m, kRowChunk<T>);
  if (column_chunks < 4 * threads) pieces = rounded_up(pieces, threads);
  const i64 size = rounded_up(chunks(m, pieces), kTileRows<T>), smallest = 4 * kTileRows<T>;
  return size > smallest ? size : smallest;
}

// Of n rows of b, each `row_bytes` long, how many one task of a product of few rows takes: none is
// so small that starting it costs more than reading it, and the threads have equally many.
i64 dot_chunk(i64 n, i64 row_bytes) {
  constexpr i64 kLeast = i64(16) << 10, kMost = i64(128) << 10;  // bytes
  if (n * row_bytes <= 2 * kLeast) return n;
  const i64 pieces = rounded_up(chunks(n * row_bytes, kMost), num_threads());
  const i64 least = chunks(kLeast, row_bytes), even = chunks(n, pieces);
  return rounded_up(even > least ? even : least, 4);
}

}  // namespace

template <class T>
void gemm(const Gemm<T>& g) {
  if (is_few(g.m, g.rows_alone) && !g.trans_a && g.trans_b) {
    parallel_chunks(g.n, dot_chunk(g.n, g.k * i64(sizeof(T))), [&](i64 begin, i64 end) {
      few_rows_product<T>(g.m, end - begin, g.k, Matrix<T>{g.a, g.lda}, g.b + begin * g.ldb, g.ldb,
                          g.c + begin, g.ldc, g.accumulate);
    });
    return;
  }
  const i64 column_chunks = chunks(g.n, kColumnChunk), rows = row_chunk<T>(g.m, column_chunks);
  parallel_for(chunks(g.m, rows) * column_chunks, [&](i64 task) {
    const i64 i = task / column_chunks * rows, j = task % column_chunks * kColumnChunk;
    block_product<T>(smaller(rows, g.m - i), smaller(kColumnChunk, g.n - j), g.k, Sum<T>(1),
                     g.a + (g.trans_a ? i : i * g.lda), g.lda, g.trans_a,
                     g.b + (g.trans_b ? j * g.ldb : j), g.ldb, g.trans_b, g.c + i * g.ldc + j,
                     g.ldc, g.accumulate);
  });
}

template <class T>
void grouped_gemm(const GroupedGemm<T>& g) {
  // By the group alone: its bits do not depend on what other groups are in the call, which for
  // experts spread over ranks are fewer.
  const auto few = [&](i64 e) {
    return g.trans_b && is_few(g.offsets[e + 1] - g.offsets[e], g.rows_alone);
  };
  bool all_few = true;
  for (i64 e = 0; e < g.groups; ++e) all_few = all_few && few(e);
  const i64 columns = all_few ? dot_chunk(g.n, g.k * i64(sizeof(T))) : g.n;
  const auto piece = [&](i64 e, i64 begin, i64 rows, i64 i) {
    const Matrix<T> a = Matrix<T>{g.a, g.k, g.a_rows}.at(begin, 0);
    const T* const b = g.b + e * g.n * g.k;
    Sum<T>* const c = g.c + begin * g.n;
    if (few(e)) {
      const i64 j = i * columns;
      few_rows_product<T>(rows, smaller(columns, g.n - j), g.k, a, b + j * g.k, g.k, c + j, g.n,
                          g.accumulate);
      return;
    }
    block_product<T>(rows, g.n, g.k, Sum<T>(1), a, false, Matrix<T>{b, g.trans_b ? g.k : g.n},
                     g.trans_b, c, g.n, g.accumulate);
  };
  parallel_groups(g.groups, g.offsets, kGroupChunk<T>, chunks(g.n, columns), piece);
}

template <class T>
void grouped_gemm_trans_a(const GroupedGemmTransA<T>& g) {
  const i64 row_chunks = chunks(g.m, kGroupChunk<T>);
  parallel_for(g.groups * row_chunks, [&](i64 task) {
    const i64 e = task / row_chunks, i = task % row_chunks * kGroupChunk<T>;
    const i64 begin = g.offsets[e], rows = g.offsets[e + 1] - begin;
    block_product<T>(smaller(kGroupChunk<T>, g.m - i), g.n, rows, Sum<T>(1),
                     Matrix<T>{g.a, g.m, g.a_rows}.at(begin, i), true,
                     Matrix<T>{g.b, g.n, g.b_rows}.at(begin, 0), false, g.c + (e * g.m + i) * g.n,
                     g.n, g.accumulate);
  });
}

QUERN_GEMM_KERNELS(QUERN_INSTANTIATE)
QUERN_GEMM_KERNELS(QUERN_INSTANTIATE_BF16)

}  // namespace quern::kernels::QUERN_TIER
