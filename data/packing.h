// SPDX-License-Identifier: MIT
// Whole documents side by side in windows, for conversations: one that is cut has lost its question
// or its answer.
#pragma once

#include <span>
#include <vector>

#include "quern/data/batch.h"
#include "quern/data/token_file.h"

namespace quern {

// Window w holds documents[first[w]] to documents[first[w + 1] - 1], in rising order.
struct Packing {
  std::vector<i64> documents;
  std::vector<i64> first = {0};

  i64 windows() const { return i64(first.size()) - 1; }
  std::span<const i64> window(i64 w) const {
    return std::span(documents).subspan(size_t(first[size_t(w)]),
                                        size_t(first[size_t(w) + 1] - first[size_t(w)]));
  }
};

// Throws DataError where one of the documents [begin, end) is longer than a window of seq tokens.
void check_lengths(const TokenFile& file, i64 seq, i64 begin, i64 end);

// Best fit, the longest document first, into windows of seq tokens; a function of the lengths. Of
// the documents [begin, end). Throws as check_lengths().
Packing pack_documents(const TokenFile& file, i64 seq, i64 begin, i64 end);

// A row of a batch. Attention begins anew with each document, and its last token predicts nothing;
// nor does a token before one that is not learnt. Places left over repeat the window's documents
// from its first, without labels, so that routers see and count text, not padding.
// Positions go on through the row: rotary attention knows their differences only, so a document
// gives the same losses, to rounding, wherever it lies and whatever lies beside it.
void fill_packed_row(const TokenFile& file, std::span<const i64> documents, std::span<i32> tokens,
                     std::span<i32> labels, std::span<i32> doc_start);

// These windows, one a row of seq tokens.
Batch packed_batch(const TokenFile& file, const Packing& packing, std::span<const i64> windows,
                   i64 seq);

}  // namespace quern
