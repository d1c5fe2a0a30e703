// SPDX-License-Identifier: MIT
// Learns a byte-level BPE vocabulary from text.
#pragma once

#include <limits>
#include <span>
#include <string_view>

#include "quern/data/tokenizer.h"

namespace quern {

struct BpeTrainerOptions {
  i32 vocab_size = 8192;
  Splitting splitting = Splitting::kGpt2;
  int num_threads = 1;  // for counting; the result does not depend on it
  // Of longer text an evenly spread part of about this many bytes is used.
  i64 max_text_bytes = std::numeric_limits<i64>::max();
};

// Ids: <|bos|> 0, <|eos|> 1, <|pad|> 2, the byte b is 3 + b, then what the merges make, in the
// order in which they were learnt. Each step merges the most frequent pair; of equally frequent
// ones that with the smallest (left id, right id). Pairs that occur once are not merged, so little
// text gives a smaller vocabulary than asked for. Throws ConfigError when vocab_size or num_threads
// is out of range.
Tokenizer train_bpe(std::span<const std::string_view> texts, const BpeTrainerOptions& options);

}  // namespace quern
