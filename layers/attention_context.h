// SPDX-License-Identifier: MIT
// What every kind of attention is told of a batch.
#pragma once

#include "quern/autograd/tape.h"
#include "quern/layers/rope.h"

namespace quern {

// What attention needs to know of a batch besides the hidden states.
struct AttentionContext {
  i64 batch = 1, seq = 1;
  Tensor positions;  // i32 [batch * seq]
  Tensor first_key;  // i32 [batch, seq] or nothing: where each position's document begins
  RopeTable rope;
  // Of decoding, where the tokens are new ones, each of any sequence of the cache.
  Tensor sequences;    // i32 [new tokens]
  bool whole = false;  // they are one sequence from its beginning, for the kernels of training
  ProductRows products =
      ProductRows::together;  // whether a token's bits may depend on the other ones
};

}  // namespace quern
