// SPDX-License-Identifier: MIT
// One product on one thread, for the kernel files: Eigen's, with the code of the tier it is in.
#pragma once

#include <Eigen/Core>

#include "quern/autograd/kernels/internal/tier.h"

namespace quern::kernels::QUERN_TIER {

template <class T>
using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class T>
using ConstView = Eigen::Map<const Matrix<T>, 0, Eigen::OuterStride<>>;
template <class T>
using View = Eigen::Map<Matrix<T>, 0, Eigen::OuterStride<>>;

// c[m, n] (+)= alpha * op(a) * op(b); the arguments as in Gemm.
template <class T>
void block_product(i64 m, i64 n, i64 k, T alpha, const T* a, i64 lda, bool trans_a, const T* b,
                   i64 ldb, bool trans_b, T* c, i64 ldc, bool accumulate) {
  const ConstView<T> av(a, trans_a ? k : m, trans_a ? m : k, Eigen::OuterStride<>(lda));
  const ConstView<T> bv(b, trans_b ? n : k, trans_b ? k : n, Eigen::OuterStride<>(ldb));
  View<T> cv(c, m, n, Eigen::OuterStride<>(ldc));
  if (!accumulate) cv.setZero();
  if (m == 0 || n == 0 || k == 0) return;
  if (trans_a && trans_b) {
    cv.noalias() += alpha * (av.transpose() * bv.transpose());
  } else if (trans_a) {
    cv.noalias() += alpha * (av.transpose() * bv);
  } else if (trans_b) {
    cv.noalias() += alpha * (av * bv.transpose());
  } else {
    cv.noalias() += alpha * (av * bv);
  }
}

}  // namespace quern::kernels::QUERN_TIER
