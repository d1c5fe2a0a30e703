// SPDX-License-Identifier: MIT
// The gradients of a loss that is a function of logits = hidden * head^T, chunk by chunk of tokens.
#pragma once

#include "quern/autograd/kernels/gemm.h"
#include "quern/autograd/tensor.h"

namespace quern::ops {

// dz: [n, vocab], of tokens [begin, begin + n), which come in order from 0. x: [tokens, width] and
// w: [vocab, width] are the operands; what is not defined is not wanted.
template <class T>
void add_head_gradients(i64 begin, i64 n, const Tensor& x, const Tensor& w, const T* dz,
                        const Tensor& dhidden, const Tensor& dhead) {
  const i64 vocab = w.dim(0), width = w.dim(1);
  if (dhidden.defined()) {
    kernels::gemm<T>({n, width, vocab, dz, vocab, false, w.data<T>(), width, false,
                      dhidden.data<Sum<T>>() + begin * width, width, false});
  }
  if (dhead.defined()) {
    kernels::gemm<T>({vocab, width, n, dz, vocab, true, x.data<T>() + begin * width, width, false,
                      dhead.data<Sum<T>>(), width, begin > 0});
  }
}

}  // namespace quern::ops
