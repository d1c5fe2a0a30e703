// SPDX-License-Identifier: MIT
// A list of parameters cut into chunks, so that one parallel loop covers large and small ones
// alike.
#pragma once

#include <span>
#include <vector>

#include "quern/autograd/parameter.h"

namespace quern {

// Elements [begin, end) of parameters[parameter]; no chunk spans two parameters.
struct ParameterChunk {
  size_t parameter = 0;
  i64 begin = 0;
  i64 end = 0;
};

// In order of parameters, then of elements. Bounds depend on sizes only. Throws ShapeError where a
// value is neither f32 nor f64, or differs from its gradient in shape or type.
std::vector<ParameterChunk> chunks_of(std::span<Parameter* const> parameters);

// Makes gradients that nobody wrote zero, those of slices before any flag they share is touched.
void settle_grads(std::span<Parameter* const> parameters);

}  // namespace quern
