// SPDX-License-Identifier: MIT
// How far one tensor is from another, for tests of what rounding may change.
#pragma once

#include <cmath>

#include "quern/autograd/tensor.h"

namespace quern::testing {

// ||a - b|| / ||b||, of the Frobenius norms.
inline double relative_distance(const Tensor& a, const Tensor& b) {
  const Tensor x = a.cast(DType::f64), y = b.cast(DType::f64);
  double difference = 0, size = 0;
  for (i64 i = 0; i < x.numel(); ++i) {
    difference += std::pow(x.data<double>()[i] - y.data<double>()[i], 2);
    size += std::pow(y.data<double>()[i], 2);
  }
  return std::sqrt(difference / size);
}

}  // namespace quern::testing
