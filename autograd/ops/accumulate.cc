// SPDX-License-Identifier: MIT
#include "quern/autograd/ops/internal/accumulate.h"

#include "quern/autograd/kernels/parallel.h"

namespace quern::ops {

void accumulate(const Tensor& gradient, const GradTarget& target) {
  for_float_type(gradient, [&]<class T>() {
    const T* from = gradient.data<T>();
    T* to = target.data<T>();
    parallel_chunks(gradient.numel(), i64{1} << 15, [&](i64 begin, i64 end) {
      if (target.accumulate) {
        for (i64 i = begin; i < end; ++i) to[i] += from[i];
      } else {
        for (i64 i = begin; i < end; ++i) to[i] = from[i];
      }
    });
  });
}

void add_scaled(const Tensor& stored, double factor, const GradTarget& target) {
  for_float_type(stored, [&]<class T>() {
    const T* from = stored.data<T>();
    T* to = target.data<T>();
    parallel_chunks(stored.numel(), i64{1} << 15, [&](i64 begin, i64 end) {
      for (i64 i = begin; i < end; ++i) {
        to[i] = (target.accumulate ? to[i] : T(0)) + T(factor) * from[i];
      }
    });
  });
}

}  // namespace quern::ops
