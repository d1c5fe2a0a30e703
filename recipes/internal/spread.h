// SPDX-License-Identifier: MIT
// A mean, and how far it may be from the truth.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

namespace quern::internal {

// Of numbers that are independent draws.
struct Spread {
  double n = 0, x = 0, xx = 0;  // how many, the sum, the sum of squares

  void add(double value) {
    n += 1;
    x += value;
    xx += value * value;
  }
  double mean() const { return n > 0 ? x / n : 0; }
  // Of the mean; NaN for fewer than two.
  double standard_error() const {
    if (n < 2) return std::numeric_limits<double>::quiet_NaN();
    return std::sqrt(std::max(0.0, xx - x * mean()) / (n - 1) / n);
  }
};

}  // namespace quern::internal
