// SPDX-License-Identifier: MIT
// What experts make of rows, forward and backward, some rows of an expert at a time: what lies
// between the products stays in the cache of the thread that computes them.
// T as in gemm.h; every row has the bits that single products and loops would give it.
#pragma once

#include "quern/autograd/kernels/types.h"

namespace quern::kernels {

// y[r] = down_e * swiglu(gate_up_e * x[token_of_row[r]]) for the rows r of every expert e,
// [offsets[e], offsets[e + 1]).
template <class T>
struct Experts {
  i64 experts, hidden, width;
  const i64* offsets;       // [experts + 1]
  const T* x;               // [tokens, hidden]
  const i32* token_of_row;  // [rows]
  const T* gate_up;         // [experts, 2 * width, hidden], gate first
  const T* down;            // [experts, hidden, width]
  T* outputs;               // [rows, 2 * width]: those of gate_up, for backward; null: not kept
  Sum<T>* y;                // [rows, hidden]
  bool rows_alone;          // as Gemm has it
};

// Backward of the sums of weight[slot] * y[row] of each token's slots, but for the gradients of the
// matrices, which are products with what this leaves: of dy with inner, and of dgate_up with x.
//   inner[r] = weight * swiglu(outputs[r])     dgate_up[r] = weight * (gradient through swiglu)
//   dweight[slot] = swiglu . gradient of swiglu's result for a weight of 1
//   drows[r] = dgate_up[r] * gate_up_e
template <class T>
struct ExpertsBackward {
  i64 experts, hidden, width;
  const i64* offsets;
  const T* x;  // read only without outputs
  const i32* token_of_row;
  const T* gate_up;
  const T* down;
  const T* outputs;        // null: computed again
  const T* dy;             // [tokens, hidden]
  const i32* slot_of_row;  // [rows]
  const Sum<T>* weight;    // by slot
  T* inner;                // [rows, width]
  T* dgate_up;             // [rows, 2 * width]
  Sum<T>* dweight;         // by slot
  bool add_dweight;
  Sum<T>* drows;  // [rows, hidden]; null: not wanted
};

template <class T>
void experts(const Experts<T>& args);
template <class T>
void experts_backward(const ExpertsBackward<T>& args);

}  // namespace quern::kernels
