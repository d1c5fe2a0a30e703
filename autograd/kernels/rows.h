// SPDX-License-Identifier: MIT
// Moves whole rows: gather, weighted combination and ordered scatter-add.
#pragma once

#include "quern/autograd/kernels/types.h"

namespace quern::kernels {

// y[i] = x[index[i]].   x: [any, width];  y: [rows, width]
template <class T>
struct GatherRows {
  i64 rows, width;
  const T* x;
  const i32* index;
  T* y;
};

// y[t] = sum over k, in order, of weight[t, k] * x[index[t, k]]; a null weight counts as 1, and a
// negative index adds nothing.
template <class T>
struct CombineRows {
  i64 tokens, top_k, width;
  const T* x;
  const i32* index;  // [tokens, top_k]
  const T* weight;   // [tokens, top_k] or null
  T* y;
  bool add;
};

// The gradients of CombineRows: dx[index[t, k]] = weight[t, k] * dy[t], and
// dweight[t, k] = x[index[t, k]] . dy[t]. Each row of x is used exactly once. Either may be
// null. The weight of a negative index has gradient 0.
template <class T>
struct CombineRowsBackward {
  i64 tokens, top_k, width;
  const T* x;
  const i32* index;
  const T* weight;
  const T* dy;
  T* dx;
  bool add_dx;
  T* dweight;
  bool add_dweight;
};

// y[index[i]] += x[i], in the order of i.   x: [rows, width];  y: [any, width]
template <class T>
struct ScatterAddRows {
  i64 rows, width;
  const T* x;
  const i32* index;
  T* y;
};

template <class T>
void gather_rows(const GatherRows<T>& args);
template <class T>
void combine_rows(const CombineRows<T>& args);
template <class T>
void combine_rows_backward(const CombineRowsBackward<T>& args);
template <class T>
void scatter_add_rows(const ScatterAddRows<T>& args);

}  // namespace quern::kernels
