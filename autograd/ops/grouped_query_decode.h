// SPDX-License-Identifier: MIT
// Attention of new tokens over cached keys and values, for generation; not recorded.
#pragma once

#include "quern/autograd/ops/cached_rows.h"

namespace quern::ops {

// New tokens, whose rows are in the cache already, attend to themselves and to what precedes them
// in their sequences, as grouped_query_attention does.
//   q: [new tokens, heads, dim];  k, v: [all sequences, max tokens, kv_heads, dim or value]
//   -> [new tokens, heads * value]
Tensor grouped_query_decode(const Tensor& q, const NewTokens& at, const Tensor& k, const Tensor& v,
                            double scale);

}  // namespace quern::ops
