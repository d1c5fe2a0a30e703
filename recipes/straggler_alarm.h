// SPDX-License-Identifier: MIT
// Notices a rank that holds up the others.
#pragma once

#include <bitset>
#include <span>
#include <string>
#include <vector>

#include "quern/autograd/kernels/types.h"

namespace quern {

struct Straggler {
  int rank = 0;
  double ratio = 0;  // its time of a step over the median of all
};

// A rank is slow once it has taken more than 1.5 times the median in 15 of the last 20 steps; named
// once until that holds for fewer than 5.
class StragglerAlarm {
 public:
  // Of one step, by rank, the seconds without waiting. The ranks that have just become slow.
  std::vector<Straggler> look(std::span<const double> seconds);

 private:
  struct Record {
    std::bitset<20> late;  // the last steps
    bool named = false;
  };
  std::vector<Record> ranks_;
};

}  // namespace quern
