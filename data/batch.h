// SPDX-License-Identifier: MIT
// What a model sees at once: rows of tokens, and what each place shall predict.
#pragma once

#include "quern/autograd/tensor.h"

namespace quern {

inline constexpr i32 kIgnoredLabel = -100;  // such a place is in no loss and no count

struct Batch {
  Tensor tokens;     // [sequences, seq] i32
  Tensor labels;     // [sequences, seq] i32: the token after this one, or kIgnoredLabel
  Tensor doc_start;  // [sequences, seq] i32: a place sees the row from here on; 0: all before it
};

}  // namespace quern
