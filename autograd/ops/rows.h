// SPDX-License-Identifier: MIT
// Rows by index: token embeddings, and the copies of tokens that go to experts and come back.
#pragma once

#include "quern/autograd/tape.h"

namespace quern::ops {

// table[ids].   ids: i32 [tokens];  table: [vocab, width]  ->  [tokens, width]
// Throws DataError on an id outside the table.
Var embedding(Tape& tape, const Tensor& ids, const Var& table);

// Which row of the routed copies holds (token, slot), and which token a row is a copy of.
struct RowMap {
  Tensor row_of_slot;   // i32 [tokens, top_k], each row number once; -1: there is no such copy
  Tensor token_of_row;  // i32 [rows]
};

// One copy of its token for every row.   x: [tokens, width]  ->  [rows, width]
Var gather_rows(Tape& tape, const Var& x, const RowMap& map);

// y[t] = sum over slots k, in order, of weights[t, k] * x[row_of_slot[t, k]].
// x: [rows, width];  weights: [tokens, top_k]  ->  [tokens, width]
Var combine_rows(Tape& tape, const Var& x, const Var& weights, const RowMap& map);

}  // namespace quern::ops
