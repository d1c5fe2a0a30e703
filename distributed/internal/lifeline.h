// SPDX-License-Identifier: MIT
// Tells one process of a machine at once that another one has died: a pipe, whose end the kernel
// closes with its owner.
#pragma once

#include <array>
#include <cstdint>

namespace quern::internal {

class Lifeline {
 public:
  // Where it is found: process, descriptor, device and inode. Meaningless on another machine.
  using Place = std::array<std::uint64_t, 4>;

  Lifeline();
  ~Lifeline();  // leaves
  Lifeline(const Lifeline&) = delete;
  Lifeline& operator=(const Lifeline&) = delete;

  Place place() const;
  // What ends from now on is no death.
  void leave();

  // Holds on to that of another process, which has not left yet; false where it cannot be reached.
  bool follow(const Place& other);
  // Whether the one that is followed has died without leaving.
  bool other_died();

 private:
  int read_ = -1, write_ = -1, other_ = -1;
};

}  // namespace quern::internal
