// SPDX-License-Identifier: MIT
// Attention of new tokens over cached latents, for generation; not recorded.
#pragma once

#include "quern/autograd/ops/cached_rows.h"

namespace quern::ops {

// New tokens, whose rows are in the cache already, attend to themselves and to what precedes them
// in their sequences.
// The key and value halves of kv_b are absorbed into the query and the output (DeepSeek-V2,
// arXiv:2405.04434, appendix C), so no past key or value is rebuilt.
//   q: [new tokens, heads, nope + rope]
//   latent: [all sequences, max tokens, rank];  k_rope: [all sequences, max tokens, rope]
//   kv_b: [heads * (nope + value), rank], of the type of q or bf16  ->  [new tokens, heads * value]
Tensor mla_decode(const Tensor& q, const NewTokens& at, const Tensor& latent, const Tensor& k_rope,
                  const Tensor& kv_b, i64 nope, i64 value, double scale);

}  // namespace quern::ops
