// SPDX-License-Identifier: MIT
// Gradients of stacks of matrices that are trained in part.
#pragma once

#include <vector>

#include "quern/autograd/kernels/types.h"

namespace quern::ops {

// Matrices [first, first + count) of a stack, whose gradients are held from `place` on.
struct StackRun {
  i64 first, count, place;
};

// The matrices that are trained (null: all), in runs without gap.
inline std::vector<StackRun> runs_of(const std::vector<i64>* matrices, i64 all) {
  if (matrices == nullptr) return {{0, all, 0}};
  std::vector<StackRun> runs;
  for (size_t i = 0; i < matrices->size(); ++i) {
    const i64 matrix = (*matrices)[i];
    if (!runs.empty() && runs.back().first + runs.back().count == matrix) {
      ++runs.back().count;
    } else {
      runs.push_back({matrix, 1, i64(i)});
    }
  }
  return runs;
}

}  // namespace quern::ops
