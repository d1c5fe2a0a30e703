// SPDX-License-Identifier: MIT
// What generation keeps of past tokens: rows of several sequences, each as long as it is so far.
#pragma once

#include "quern/autograd/kernels/decode.h"
#include "quern/autograd/tensor.h"

namespace quern::ops {

// Where new tokens lie in caches [all sequences, max tokens, ...]: both i32 [new tokens].
struct NewTokens {
  Tensor sequences, positions;
};

// Throws ShapeError where a token lies outside the cache.
kernels::CachePlaces places_in(const Tensor& cache, const NewTokens& tokens);

// cache[sequence, position] = rows[t], of each new token t.   rows: [new tokens, ...]
void put_rows(const Tensor& cache, const NewTokens& tokens, const Tensor& rows);

}  // namespace quern::ops
