// SPDX-License-Identifier: MIT
#include "quern/data/prefetch.h"

#include <algorithm>
#include <utility>

namespace quern {

Prefetcher::Prefetcher(std::function<Batch(i64)> make, i64 first_step, int depth)
    : make_(std::move(make)), depth_(size_t(std::max(depth, 1))) {
  thread_ = std::thread([this, first_step] { run(first_step); });
}

Prefetcher::~Prefetcher() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Prefetcher::run(i64 step) {
  try {
    for (;; ++step) {
      Batch batch = make_(step);
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return stop_ || ready_.size() < depth_; });
      if (stop_) return;
      ready_.push_back(std::move(batch));
      changed_.notify_all();
    }
  } catch (...) {
    const std::lock_guard lock(mutex_);
    failure_ = std::current_exception();
    changed_.notify_all();
  }
}

Batch Prefetcher::next() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return !ready_.empty() || failure_; });
  if (ready_.empty()) std::rethrow_exception(failure_);
  Batch batch = std::move(ready_.front());
  ready_.pop_front();
  changed_.notify_all();
  return batch;
}

}  // namespace quern
