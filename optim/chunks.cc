// SPDX-License-Identifier: MIT
#include "quern/optim/chunks.h"

#include <algorithm>

namespace quern {
namespace {

// 128 KB of f32: AdamW's four streams of a chunk stay within a second-level cache.
constexpr i64 kChunk = i64{1} << 15;

}  // namespace

std::vector<ParameterChunk> chunks_of(std::span<Parameter* const> parameters) {
  std::vector<ParameterChunk> chunks;
  for (size_t i = 0; i < parameters.size(); ++i) {
    const Parameter& p = *parameters[i];
    for_float_type(p.value, []<class T>() {});
    if (p.grad.shape() != p.value.shape() || p.grad.dtype() != p.value.dtype()) {
      throw ShapeError(
          {.key = p.name, .what = "gradient", .expected = p.value.str(), .actual = p.grad.str()});
    }
    const i64 size = p.value.numel();
    for (i64 begin = 0; begin < size; begin += kChunk) {
      chunks.push_back({i, begin, std::min(begin + kChunk, size)});
    }
  }
  return chunks;
}

void settle_grads(std::span<Parameter* const> parameters) {
  for (const Parameter* p : parameters) p->settle_grad();
}

}  // namespace quern
