// SPDX-License-Identifier: MIT
// Parameters with reproducible values and gradients for the tests of the optimizer.
#pragma once

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "quern/autograd/parameter.h"

namespace quern::test {

inline void fill_random(const Tensor& t, unsigned seed, double scale = 1) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal(0, scale);
  for_float_type(t, [&]<class T>() {
    for (T& x : t.span<T>()) x = T(normal(generator));
  });
}

inline bool same_bytes(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && a.dtype() == b.dtype() &&
         std::memcmp(a.bytes().data(), b.bytes().data(), a.bytes().size()) == 0;
}

// Three parameters: one of several chunks, one small, one vector.
struct SomeParameters {
  explicit SomeParameters(DType dtype) {
    all.emplace_back("large", Shape{301, 333}, ParamKind::attention, dtype);
    all.emplace_back("small", Shape{3, 5}, ParamKind::embedding, dtype);
    all.emplace_back("gain", Shape{7}, ParamKind::norm, dtype);
    for (size_t i = 0; i < all.size(); ++i) fill_random(all[i].value, unsigned(i));
  }
  void fill_grads(unsigned seed) {
    for (Parameter& p : all) {
      p.grad.hold();
      fill_random(p.grad, ++seed * 7919);
      *p.grad_written = true;
    }
  }
  std::vector<Parameter*> pointers() {
    std::vector<Parameter*> list;
    for (Parameter& p : all) list.push_back(&p);
    return list;
  }
  std::vector<Parameter> all;
};

}  // namespace quern::test
