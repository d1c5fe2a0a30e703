// SPDX-License-Identifier: MIT
// The same elements in another arrangement.
#pragma once

#include "quern/autograd/tape.h"

namespace quern::ops {

// A view with another shape of as many elements.
Var reshape(Tape& tape, const Var& x, const Shape& shape);

// Columns [begin, end) of a matrix, copied.   x: [rows, columns]
Var slice_columns(Tape& tape, const Var& x, i64 begin, i64 end);

// y, with scale * x added to its columns from `begin` on.
// y: [rows, columns];  x: [rows, width], width <= columns - begin
Var add_to_columns(Tape& tape, const Var& y, const Var& x, i64 begin, double scale);

}  // namespace quern::ops
