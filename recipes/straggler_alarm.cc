// SPDX-License-Identifier: MIT
#include "quern/recipes/straggler_alarm.h"

#include <algorithm>

namespace quern {
namespace {

constexpr double kSlow = 1.5;
constexpr i64 kSteps = 20;

}  // namespace

std::vector<Straggler> StragglerAlarm::look(std::span<const double> seconds) {
  std::vector<Straggler> found;
  if (seconds.size() < 2) return found;
  late_.resize(seconds.size(), 0);
  std::vector<double> sorted(seconds.begin(), seconds.end());
  std::sort(sorted.begin(), sorted.end());
  const double median = sorted[(sorted.size() - 1) / 2];  // of two ranks, the faster one
  for (size_t r = 0; r < seconds.size(); ++r) {
    late_[r] = seconds[r] > kSlow * median ? late_[r] + 1 : 0;
    if (late_[r] == kSteps) found.push_back({int(r), seconds[r] / median});
  }
  return found;
}

}  // namespace quern
