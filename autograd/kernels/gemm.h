// SPDX-License-Identifier: MIT
// Matrix products on row-major arrays, plain and grouped. Work is cut by sizes alone and the inner
// extent is never split between threads, so results do not depend on how many there are.
// T: float, double, or bf16, whose products are summed in f32: exact products, one after the other,
// or where the processor has an instruction for it, pairs of them, with subnormals taken as zero.
#pragma once

#include "quern/autograd/kernels/types.h"

namespace quern::kernels {

// c[m, n] = op(a)[m, k] * op(b)[k, n], added to c where `accumulate`.
// With trans_a, a is stored [k, m]; with trans_b, b is stored [n, k]. ld*: elements between rows.
// With rows_alone, and where a is not transposed and b is, each row of c has the bits it would have
// as the only one; else many rows are summed in another order than a few.
template <class T>
struct Gemm {
  i64 m, n, k;
  const T* a;
  i64 lda;
  bool trans_a;
  const T* b;
  i64 ldb;
  bool trans_b;
  Sum<T>* c;
  i64 ldc;
  bool accumulate;
  bool rows_alone = false;
};

// For every group g: c[rows of g, n] = a[rows of g, k] * op(b[g])[k, n]. Rows of g are
// [offsets[g], offsets[g + 1]); b is a stack of matrices, [n, k] each with trans_b, else [k, n].
// With a_rows, row i of a is row a_rows[i] of what is stored: copies are made as they are packed.
// rows_alone as above.
template <class T>
struct GroupedGemm {
  i64 groups;
  const i64* offsets;
  i64 n, k;
  const T* a;  // [offsets[groups], k]
  const T* b;  // [groups, ...]
  bool trans_b;
  Sum<T>* c;  // [offsets[groups], n]
  bool accumulate;
  const i32* a_rows = nullptr;
  bool rows_alone = false;
};

// For every group g: c[g][m, n] = a[rows of g, m]^T * b[rows of g, n]. An empty group gives zeros.
// a_rows and b_rows as above.
template <class T>
struct GroupedGemmTransA {
  i64 groups;
  const i64* offsets;
  i64 m, n;
  const T* a;
  const T* b;
  Sum<T>* c;
  bool accumulate;
  const i32* a_rows = nullptr;
  const i32* b_rows = nullptr;
};

template <class T>
void gemm(const Gemm<T>& args);
template <class T>
void grouped_gemm(const GroupedGemm<T>& args);
template <class T>
void grouped_gemm_trans_a(const GroupedGemmTransA<T>& args);

}  // namespace quern::kernels
