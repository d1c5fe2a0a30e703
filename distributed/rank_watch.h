// SPDX-License-Identifier: MIT
// Notices ranks that have died or hang, which MPI does not: whoever waits for them would wait for
// ever.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "quern/distributed/communicator.h"

namespace quern {

struct RankWatchOptions {
  double timeout_s = 60;          // of silence, after which a rank is taken for dead
  std::function<bool()> hurried;  // whether the job is being ended anyway; then 5 s are enough
  std::string advice;             // the last words of a job that ends: "quern resume RUN"
  int exit_code = 75;
};

// From a thread of its own every rank tells the first one, by UDP, that it is alive, and hears from
// it; no main thread is asked, so that long work is not taken for death. On one machine a death is
// seen at once. Who finds a rank silent or dead names it on stderr, with its machine and step, and
// ends the job. Where no datagram ever arrives, ranks of other machines are not watched. With one
// rank it does nothing.
class RankWatch {
 public:
  // All ranks make one together.
  RankWatch(const Communicator& ranks, RankWatchOptions options);
  ~RankWatch();
  RankWatch(const RankWatch&) = delete;
  RankWatch& operator=(const RankWatch&) = delete;

  // What this rank is at, for the message.
  void at_step(i64 step);
  // The machine of a rank; empty with one rank.
  std::string host(int rank) const;

 private:
  struct State;
  std::unique_ptr<State> state_;  // nothing with one rank
};

}  // namespace quern
