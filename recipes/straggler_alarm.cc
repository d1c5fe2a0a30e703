// SPDX-License-Identifier: MIT
#include "quern/recipes/straggler_alarm.h"

#include <algorithm>

namespace quern {
namespace {

constexpr double kSlow = 1.5;
constexpr size_t kBecomesSlow = 15, kKeepsUp = 5;

}  // namespace

std::vector<Straggler> StragglerAlarm::look(std::span<const double> seconds) {
  std::vector<Straggler> found;
  if (seconds.size() < 2) return found;
  ranks_.resize(seconds.size());
  std::vector<double> sorted(seconds.begin(), seconds.end());
  std::sort(sorted.begin(), sorted.end());
  const double median = sorted[(sorted.size() - 1) / 2];  // of two ranks, the faster one
  for (size_t r = 0; r < seconds.size(); ++r) {
    Record& record = ranks_[r];
    record.late <<= 1;
    record.late.set(0, seconds[r] > kSlow * median);
    if (record.late.count() < kKeepsUp) record.named = false;
    if (record.named || record.late.count() < kBecomesSlow || !record.late[0]) continue;
    record.named = true;
    found.push_back({int(r), seconds[r] / median});
  }
  return found;
}

}  // namespace quern
