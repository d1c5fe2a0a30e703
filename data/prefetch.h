// SPDX-License-Identifier: MIT
// Makes the next batches on a thread of its own while the model works on this one.
#pragma once

#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>

#include "quern/data/batch.h"

namespace quern {

class Prefetcher {
 public:
  // Calls make(first_step), make(first_step + 1), ... on one background thread, up to `depth`
  // batches ahead. `make` must not start threads or call MPI.
  Prefetcher(std::function<Batch(i64 step)> make, i64 first_step, int depth);
  ~Prefetcher();  // waits for the batch that is being made
  Prefetcher(const Prefetcher&) = delete;
  Prefetcher& operator=(const Prefetcher&) = delete;

  // The batch of the next step. Rethrows what make() threw, once the batches before are used up.
  Batch next();

 private:
  void run(i64 step);

  std::function<Batch(i64)> make_;
  size_t depth_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Batch> ready_;
  std::exception_ptr failure_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace quern
