// SPDX-License-Identifier: MIT
// Counter-based random numbers: a value depends on (seed, purpose, index) alone, never on the order
// of calls, so threads, ranks and resumed runs see the same ones.
#pragma once

#include <string_view>
#include <utility>

#include "quern/autograd/tensor.h"

namespace quern {

class Random {
 public:
  // `purpose` names the stream: "init/model.norm.weight", "shuffle", ...
  Random(std::uint64_t seed, std::string_view purpose);

  std::uint64_t bits(std::uint64_t index) const;
  double uniform(std::uint64_t index) const;  // [0, 1)
  double normal(std::uint64_t index) const;   // mean 0, standard deviation 1
  // normal(2 * pair) and normal(2 * pair + 1), for the price of one.
  std::pair<double, double> normals(std::uint64_t pair) const;
  // [0, n) without bias worth speaking of (n far below 2^64); n > 0.
  std::uint64_t below(std::uint64_t index, std::uint64_t n) const;

 private:
  std::uint64_t key_;
};

// Fills a floating tensor with N(0, std^2).
void fill_normal(const Tensor& t, const Random& random, double std);

}  // namespace quern
