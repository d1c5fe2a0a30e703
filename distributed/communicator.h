// SPDX-License-Identifier: MIT
// A group of ranks, and what they do together. Every rank of a group makes the same calls in the
// same order. With one rank nothing moves and MPI is never touched.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "quern/autograd/kernels/types.h"

namespace quern {

namespace internal {
struct Link;
class Errand;
}  // namespace internal

// Bytes under way between ranks. They go on while this thread computes: parallel_for() looks after
// them between its tasks. What they come from and go to must stay until wait().
class Travel {
 public:
  Travel() = default;
  explicit Travel(std::shared_ptr<internal::Errand> errand);
  ~Travel();
  Travel(Travel&& other) noexcept : errand_(std::exchange(other.errand_, nullptr)) {}
  Travel& operator=(Travel&& other) noexcept {
    std::swap(errand_, other.errand_);
    return *this;
  }

  // Until all is there. Once is enough.
  void wait();
  // Whether it is, without waiting.
  bool arrived() const;

 private:
  std::shared_ptr<internal::Errand> errand_;  // nothing: at rest
};

// A cheap value: copies stand for the same group. Not for several threads.
class Communicator {
 public:
  Communicator() = default;  // one rank, alone

  int rank() const;
  int size() const;
  bool alone() const { return size() == 1; }

  // Seconds that calls of this group have waited so far: for other ranks, and for what they sent.
  double waited_s() const;

  // The ranks of this group that give the same number, in their order here.
  Communicator split(int color) const;

  void barrier() const;
  // What `root` has in `bytes` becomes everybody's.
  void broadcast(std::span<std::byte> bytes, int root) const;
  std::string broadcast(std::string text, int root) const;
  // The start of a broadcast, from `root` to each: for many, whose roots are evenly spread.
  Travel start_broadcast(std::span<std::byte> bytes, int root) const;
  // What every rank gives, by rank; sizes may differ.
  std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> mine) const;
  template <class T>
  std::vector<std::vector<T>> all_gather_values(std::span<const T> mine) const;
  bool any(bool mine) const;

  // to[r] goes to rank r, and from[r] takes what it sends here; sizes must agree.
  void exchange(std::span<const std::span<const std::byte>> to,
                std::span<const std::span<std::byte>> from) const;
  // The same, of which this is the start. What goes from here to here is there at once.
  Travel start_exchange(std::span<const std::span<const std::byte>> to,
                        std::span<const std::span<std::byte>> from) const;

  // What rank `from` gives goes to rank `to`, which takes it; to others it is no call.
  void send(std::span<const std::byte> given, int from, int to, std::span<std::byte> taken) const;

  // values[i] = the sum over ranks, on every rank, in float or double. Ranks are added as LaneTree
  // (quern/optim/lanes.h) adds lanes: neighbours first, then pairs of them. So equal bits come out
  // wherever 2^a lanes are summed by 2^b ranks of 2^(a - b) lanes each.
  template <class T>
  void sum(std::span<T> values) const;
  // The same, of which this is the start; there may be several under way.
  template <class T>
  Travel start_sum(std::span<T> values) const;

 private:
  friend class Runtime;
  explicit Communicator(std::shared_ptr<internal::Link> link) : link_(std::move(link)) {}
  std::shared_ptr<internal::Link> link_;  // nothing: alone
};

template <class T>
std::vector<std::vector<T>> Communicator::all_gather_values(std::span<const T> mine) const {
  std::vector<std::vector<T>> all;
  for (const std::vector<std::byte>& bytes : all_gather(std::as_bytes(mine))) {
    all.emplace_back(bytes.size() / sizeof(T));
    std::copy(bytes.begin(), bytes.end(), std::as_writable_bytes(std::span(all.back())).begin());
  }
  return all;
}

}  // namespace quern
