// SPDX-License-Identifier: MIT
// The speed of encoding, and how it grows when one letter is repeated.
#pragma once

#include <string>
#include <vector>

#include "quern/data/tokenizer.h"

namespace quern::bench {

struct EncodingTimes {
  std::string ids_sha256;  // of the ids as 32-bit integers
  i64 bytes = 0, tokens = 0;
  std::vector<double> seconds;  // of each round
};

// Encodes the text as one document, each round with an encoder of its own. Throws DataError when
// decoding does not give the text back.
EncodingTimes time_encoding(const Tokenizer& tokenizer, const std::string& text, int rounds);

// A tokenizer in which n equal letters are a token, for n = 1, 2, 4, ... 2^10 (and three times as
// much): what a vocabulary holds of runs.
Tokenizer letter_tokenizer();

// Resident memory in bytes: the peak, and what it is now, from where the peak is counted anew.
i64 peak_resident_bytes();
i64 reset_peak_resident_bytes();

}  // namespace quern::bench
