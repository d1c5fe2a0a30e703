// SPDX-License-Identifier: MIT
// Tensors of random numbers for tests, the same in every run.
#pragma once

#include <string>

#include "quern/autograd/random.h"
#include "quern/autograd/tensor.h"

namespace quern::testing {

inline Tensor random_tensor(const Shape& shape, DType dtype = DType::f64, std::uint64_t seed = 1,
                            double std = 1) {
  Tensor t = Tensor::empty(shape, DType::f64);
  fill_normal(t, Random(seed, "test" + shape.str()), std);
  return t.cast(dtype);
}

}  // namespace quern::testing
