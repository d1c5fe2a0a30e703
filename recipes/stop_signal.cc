// SPDX-License-Identifier: MIT
#include "quern/recipes/stop_signal.h"

namespace quern {
namespace {

constexpr int kSignals[] = {SIGINT, SIGTERM, SIGUSR1};

volatile sig_atomic_t stop_flag = 0;  // handlers reach nothing but a global

// SIGUSR1 from a batch system may come before the user's first Ctrl-C, which then asks for nothing
// new; a second one is meant to hurry.
constexpr int kAsked = 1, kAskedToEnd = 2;

void on_signal(int number) {
  if (number != SIGUSR1 && stop_flag == kAskedToEnd) {
    signal(number, SIG_DFL);  // both calls are allowed in a handler
    raise(number);
    return;
  }
  if (number != SIGUSR1) {
    stop_flag = kAskedToEnd;
  } else if (stop_flag == 0) {
    stop_flag = kAsked;
  }
}

}  // namespace

StopSignals::StopSignals() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  struct sigaction present {};
  sigaction(kSignals[0], nullptr, &present);
  if (present.sa_handler != on_signal) stop_flag = 0;
  for (int i = 0; i < 3; ++i) sigaction(kSignals[i], &action, &before_[i]);
}

StopSignals::~StopSignals() {
  for (int i = 0; i < 3; ++i) sigaction(kSignals[i], &before_[i], nullptr);
}

bool stop_requested() { return stop_flag != 0; }

void stop_here() {
  if (stop_requested()) throw StopRequested{};
}

}  // namespace quern
