// SPDX-License-Identifier: MIT
// Attention of new tokens over cached keys and values, for generation; not recorded.
#pragma once

#include "quern/autograd/tensor.h"

namespace quern::ops {

// The last `new tokens` of `total` cached positions attend to themselves and to what precedes them,
// as grouped_query_attention does.
//   q: [new tokens, heads, dim];  k: [total, kv_heads, dim];  v: [total, kv_heads, value]
//   -> [new tokens, heads * value]
Tensor grouped_query_decode(const Tensor& q, const Tensor& k, const Tensor& v, double scale);

}  // namespace quern::ops
