// SPDX-License-Identifier: MIT
// Shape checks shared by the operations: an error says what was expected and what came.
#pragma once

#include <string>

#include "quern/autograd/error.h"
#include "quern/autograd/tape.h"

namespace quern::ops {

inline void expect_shape(const char* op, const char* argument, const Tensor& t,
                         const Shape& shape) {
  if (t.shape() != shape) {
    throw ShapeError(
        {.key = std::string(op) + " " + argument, .expected = shape.str(), .actual = t.str()});
  }
}

inline void expect_same_type(const char* op, const Tensor& a, const Tensor& b) {
  if (a.dtype() != b.dtype()) {
    throw ShapeError({.key = op, .what = "different types", .actual = a.str() + " and " + b.str()});
  }
}

}  // namespace quern::ops
