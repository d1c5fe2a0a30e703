// SPDX-License-Identifier: MIT
// What a run shows while it trains: one live line on a terminal, plain lines elsewhere.
#pragma once

#include <chrono>
#include <cstdio>
#include <limits>
#include <string>
#include <string_view>

#include "quern/recipes/metrics.h"

namespace quern {

// "step 120/1200  loss 4.312  val 2.410 bpb  lr 8.0e-04  |g| 0.91  5.2k tok/s  41% peak
//  load 1.8x dead 0  1.2 GB  ETA 3m10s", on one line; "refused 2" after the step when the guard
//  did.
// Unknown parts are left out; when the line
// is longer than `width` columns (0: any length), the parts that matter least go first.
std::string progress_text(const StepMetrics& metrics, i64 total_steps, double bits_per_byte,
                          double eta_s, int width, i64 refused = 0);

class ProgressLine {
 public:
  // In a log, every log_every-th step and the last one get a line. Borrows `out`.
  ProgressLine(i64 total_steps, i64 log_every, std::FILE* out);
  ~ProgressLine() { finish(); }
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  void step(const StepMetrics& metrics);
  void eval(const EvalMetrics& metrics);  // shown from the next step on
  void note(std::string_view line);       // a line that stays, above the live one
  void refused(std::string_view line);    // such a line, and one more refused step in the live one
  void finish();                          // ends the live line; more steps may follow

 private:
  using Clock = std::chrono::steady_clock;

  void draw(const std::string& text);
  int columns() const;  // of the terminal

  i64 total_steps_;
  i64 log_every_;
  std::FILE* out_;
  bool terminal_;
  std::string live_;  // what the live line shows now
  i64 refused_ = 0;
  double bits_per_byte_ = std::numeric_limits<double>::quiet_NaN();
  double step_seconds_ = 0;  // running mean, for the time left; 0: no step yet
  Clock::time_point drawn_{};
};

}  // namespace quern
