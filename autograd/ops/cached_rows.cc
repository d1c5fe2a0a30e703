// SPDX-License-Identifier: MIT
#include "quern/autograd/ops/cached_rows.h"

#include <algorithm>

#include "quern/autograd/ops/checks.h"

namespace quern::ops {

kernels::CachePlaces places_in(const Tensor& cache, const NewTokens& tokens) {
  const i64 count = tokens.positions.numel();
  expect_shape("cached rows", "sequences", tokens.sequences, {count});
  const i32 *sequence = tokens.sequences.data<i32>(), *position = tokens.positions.data<i32>();
  for (i64 t = 0; t < count; ++t) {
    if (sequence[t] < 0 || sequence[t] >= cache.dim(0) || position[t] < 0 ||
        position[t] >= cache.dim(1)) {
      throw ShapeError({.what = "cached rows: a token outside the cache"});
    }
  }
  return {count, cache.dim(1), sequence, position};
}

void put_rows(const Tensor& cache, const NewTokens& tokens, const Tensor& rows) {
  const kernels::CachePlaces places = places_in(cache, tokens);
  const i64 width = cache.numel() / (cache.dim(0) * cache.dim(1));
  expect_shape("cached rows", "rows", rows.reshape({rows.dim(0), rows.numel() / rows.dim(0)}),
               {places.tokens, width});
  expect_same_type("cached rows", cache, rows);
  const size_t bytes = size_t(width * size_of(cache.dtype()));
  for (i64 t = 0; t < places.tokens; ++t) {
    const i64 row = places.sequence[t] * places.max_tokens + places.position[t];
    std::copy_n(rows.bytes().data() + size_t(t) * bytes, bytes,
                cache.bytes().data() + size_t(row) * bytes);
  }
}

}  // namespace quern::ops
