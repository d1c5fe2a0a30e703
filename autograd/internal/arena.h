// SPDX-License-Identifier: MIT
// Large blocks cut out of few long stretches of memory. What is freed joins its free neighbours, so
// that blocks of one size make room for those of another: a training step frees activations as
// gradients come up.
#pragma once

#include <cstddef>
#include <map>
#include <set>
#include <utility>

namespace quern {

class Arena {
 public:
  // Of the free stretches that have room the shortest, then the lowest. Null when the system has no
  // memory left. `size` is a multiple of 64.
  std::byte* take(std::size_t size);
  void give_back(std::byte* block, std::size_t size);

  // Free bytes that were in use before, give or take the page that usage ends in.
  std::size_t cached() const;
  // Gives free memory back to the system.
  void release();

 private:
  // What was mapped in one piece, from its first address: pages from `used` on were never touched.
  struct Segment {
    std::size_t size = 0;
    std::size_t used = 0;
  };
  bool grow(std::size_t size);
  void add_free(std::byte* begin, std::size_t size);
  void remove_free(std::map<std::byte*, std::size_t>::iterator place);
  std::map<std::byte*, Segment>::iterator segment_of(std::byte* block);

  std::map<std::byte*, Segment> segments_;
  std::map<std::byte*, std::size_t> free_;                   // by address; none touch each other
  std::set<std::pair<std::size_t, std::byte*>> free_sizes_;  // the same, by size
};

}  // namespace quern
