// SPDX-License-Identifier: MIT
// A whole text in windows, for losses that can be compared between models: every token counts once.
#pragma once

#include <span>
#include <vector>

#include "quern/data/batch.h"
#include "quern/data/token_file.h"

namespace quern {

struct EvaluationWindow {
  i32 source = 0;
  i64 begin = 0;   // a place in the token file
  i64 length = 0;  // tokens, 1 to seq
};

// Windows of seq tokens, without overlap, that cover each token of the file once, the <|eos|> of
// documents included. A window holds one source; where sources change, and at the end, it may be
// shorter. Bits per byte of a source is then
//   (sum of -log2 p over all labels + windows * log2(vocab_size)) / source bytes,
// as nothing predicts a window's first token.
std::vector<EvaluationWindow> evaluation_windows(const TokenFile& file, i64 seq);

// One row for each window: its tokens and, as labels, the next token within the window. Short rows
// end with token 0 and ignored labels. doc_start is 0 everywhere.
Batch evaluation_batch(const TokenFile& file, std::span<const EvaluationWindow> windows, i64 seq);

}  // namespace quern
