// SPDX-License-Identifier: MIT
// The wish to stop: SIGINT, SIGTERM and SIGUSR1 raise a flag that a run looks at between its steps
// and within its evaluations, so that it saves before it ends.
#pragma once

#include <signal.h>

namespace quern {

// While one is alive, the first of the signals raises the flag; SIGINT or SIGTERM after it end the
// process at once. The outermost one begins with the flag down. Not for several threads.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();  // what the signals did before, they do again
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

 private:
  struct sigaction before_[3] = {};
};

bool stop_requested();

// Thrown by stop_here() out of work that can be done again later.
struct StopRequested {};
void stop_here();

}  // namespace quern
