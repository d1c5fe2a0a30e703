// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <vector>

namespace quern::bench {

// Of an even number of values the larger of the two in the middle. There is at least one.
inline double median(std::vector<double> x) {
  const auto middle = x.begin() + std::ptrdiff_t(x.size() / 2);
  std::nth_element(x.begin(), middle, x.end());
  return *middle;
}

}  // namespace quern::bench
