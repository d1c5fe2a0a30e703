// SPDX-License-Identifier: MIT
// Numbers of few bits: groups of integers with a scale, and E4M3. Plain loops, for any machine.
#pragma once

#include <cstdint>

#include "quern/autograd/kernels/types.h"

namespace quern::kernels {

// A row of `width` numbers as integers of `bits` (1 to 8) bits. Each `group` of neighbours, the
// last one perhaps shorter, has two bf16 numbers before the integers: its least value, rounded
// down, and the step, rounded up, so that the integers reach from the least value to the greatest.
struct PackedRow {
  i64 width, bits, group;

  i64 groups() const { return (width + group - 1) / group; }
  i64 bytes() const { return 4 * groups() + (width * bits + 7) / 8; }
};
// A group with a number that is not finite becomes NaN.
template <class T>
void pack(const PackedRow& form, const T* row, std::uint8_t* packed);
template <class T>
void unpack(const PackedRow& form, const std::uint8_t* packed, T* row);

// Values in blocks of a matrix, each with a scale 2^k such that the largest magnitude is at most
// 448, rounded to E4M3 (OCP 8-bit floating point, revision 1.0: 4 bits of exponent, 3 of mantissa,
// no infinities) and scaled back. DeepSeek-V3 (arXiv:2412.19437, section 3.3) has blocks of 1 x 128
// in activations and of 128 x 128 in weights.   x, y: [rows, columns]
template <class T>
struct RoundToE4m3 {
  i64 rows, columns, block_rows, block_columns;
  const T* x;
  T* y;
};
template <class T>
void round_to_e4m3(const RoundToE4m3<T>& args);

}  // namespace quern::kernels
