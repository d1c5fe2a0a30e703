// SPDX-License-Identifier: MIT
// The extents of a row-major tensor, of rank 0 (a scalar) to 4.
#pragma once

#include <array>
#include <initializer_list>
#include <string>

#include "quern/autograd/kernels/types.h"

namespace quern {

class Shape {
 public:
  static constexpr int kMaxRank = 4;

  Shape() = default;  // a scalar: rank 0, one element
  // Throws ShapeError on more than kMaxRank extents or a negative one.
  Shape(std::initializer_list<i64> dims);

  int rank() const { return rank_; }
  i64 operator[](int i) const { return dims_[size_t(i)]; }
  i64 numel() const;
  i64 last() const { return rank_ > 0 ? dims_[size_t(rank_ - 1)] : 1; }
  i64 rows() const { return last() > 0 ? numel() / last() : 0; }  // product of all but the last
  std::string str() const;                                        // "[2, 3]"

  bool operator==(const Shape&) const = default;

 private:
  std::array<i64, kMaxRank> dims_{};
  int rank_ = 0;
};

}  // namespace quern
