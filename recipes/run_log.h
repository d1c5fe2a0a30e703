// SPDX-License-Identifier: MIT
// What a run writes down as it goes: metrics.jsonl, which Quern reads back, and the same for
// TensorBoard in events/.
#pragma once

#include <filesystem>
#include <vector>

#include "quern/data/atomic_file.h"
#include "quern/recipes/metrics.h"
#include "quern/recipes/tfevents.h"

namespace quern {

class RunLog {
 public:
  // resume_step as for MetricsLog. Throws as MetricsLog and EventFile do.
  RunLog(const std::filesystem::path& run, i64 resume_step)
      : run_(run), log_(run / "metrics.jsonl", resume_step), events_(run / "events", resume_step) {}

  // The log loses what is later than `step`.
  void cut_back(i64 step) {
    log_ = MetricsLog(run_ / "metrics.jsonl", step);
    events_ = EventFile(run_ / "events", step);
  }

  // The run goes back to after `step`: the log loses later steps and what happened in them, except
  // other rollbacks to that step. Logs `why` of the step after it, so that a run which resumes from
  // there, and will roll back again, logs it once.
  void roll_back(i64 step, const std::string& why) {
    std::erase_if(rollbacks_, [step](const EventMetrics& e) { return e.step != step + 1; });
    rollbacks_.push_back({step + 1, "rolled_back", why});
    cut_back(step);
    for (const EventMetrics& event : rollbacks_) append(event);
  }

  // What metrics.jsonl holds is on the disk when this returns. Throws IoError.
  void sync() const { sync_file(log_.path()); }

  template <class Metrics>
  void append(const Metrics& metrics) {
    log_.append(metrics);
    events_.append(metrics);
  }

 private:
  std::filesystem::path run_;
  std::vector<EventMetrics> rollbacks_;  // of this process, to one step
  MetricsLog log_;
  EventFile events_;
};

}  // namespace quern
