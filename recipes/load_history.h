// SPDX-License-Identifier: MIT
// The expert loads of a whole run in bounded memory: means over stretches of steps, which grow as
// the run does.
#pragma once

#include <cstddef>
#include <vector>

#include "quern/autograd/kernels/types.h"

namespace quern {

class LoadHistory {
 public:
  static constexpr std::size_t kMaxSpans = 64;

  struct Span {
    i64 first_step = 0, last_step = 0;
    i64 steps = 0;                          // that were averaged
    std::vector<std::vector<double>> load;  // [MoE layers][experts], mean 1
  };

  // Steps come in rising order. A load of another shape than the first one's is passed over, and so
  // is one with a value that is not finite.
  void add(i64 step, const std::vector<std::vector<double>>& load);

  // At most kMaxSpans, in order; all but the last one cover the same number of steps.
  const std::vector<Span>& spans() const { return spans_; }

 private:
  void halve();

  std::vector<Span> spans_;
  i64 steps_per_span_ = 1;
};

}  // namespace quern
