// SPDX-License-Identifier: MIT
// Notices a rank that holds up the others.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "quern/autograd/kernels/types.h"

namespace quern {

struct Straggler {
  int rank = 0;
  double ratio = 0;  // its time of a step over the median of all
};

// A rank is slow once it has taken more than 1.5 times the median for 20 steps in a row; named once
// until it has kept up again.
class StragglerAlarm {
 public:
  // Of one step, by rank, the seconds without waiting. The ranks that have just become slow.
  std::vector<Straggler> look(std::span<const double> seconds);

 private:
  std::vector<i64> late_;  // steps in a row, by rank
};

}  // namespace quern
