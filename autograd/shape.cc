// SPDX-License-Identifier: MIT
#include "quern/autograd/shape.h"

#include "quern/autograd/error.h"

namespace quern {

Shape::Shape(std::initializer_list<i64> dims) {
  if (dims.size() > kMaxRank) throw ShapeError({.what = "a shape of more than four extents"});
  for (const i64 d : dims) {
    if (d < 0) throw ShapeError({.what = "a negative extent", .actual = std::to_string(d)});
    dims_[size_t(rank_++)] = d;
  }
}

i64 Shape::numel() const {
  i64 n = 1;
  for (int i = 0; i < rank_; ++i) n *= dims_[size_t(i)];
  return n;
}

std::string Shape::str() const {
  std::string s = "[";
  for (int i = 0; i < rank_; ++i) s += (i ? ", " : "") + std::to_string(dims_[size_t(i)]);
  return s + "]";
}

}  // namespace quern
