// SPDX-License-Identifier: MIT
// What a run writes down as it goes: metrics.jsonl, which Quern reads back, and the same for
// TensorBoard in events/.
#pragma once

#include <filesystem>

#include "quern/recipes/metrics.h"
#include "quern/recipes/tfevents.h"

namespace quern {

class RunLog {
 public:
  // resume_step as for MetricsLog. Throws as MetricsLog and EventFile do.
  RunLog(const std::filesystem::path& run, i64 resume_step)
      : log_(run / "metrics.jsonl", resume_step), events_(run / "events", resume_step) {}

  template <class Metrics>
  void append(const Metrics& metrics) {
    log_.append(metrics);
    events_.append(metrics);
  }

 private:
  MetricsLog log_;
  EventFile events_;
};

}  // namespace quern
