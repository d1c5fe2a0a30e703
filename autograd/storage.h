// SPDX-License-Identifier: MIT
// Memory of tensors. What is freed is handed out again, since memory given back to the system at
// every training step would cost page faults that outweigh the arithmetic.
#pragma once

#include <cstddef>
#include <memory>

namespace quern {

// The memory that a tensor and its views share: uninitialised, aligned to 64.
class Storage {
 public:
  explicit Storage(std::size_t bytes) : bytes_(bytes) { hold(); }
  ~Storage() { discard(); }
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  std::byte* data() const { return data_; }  // null after discard()

  // Gives the memory back, and what it held with it; hold() takes some again where there is none,
  // and throws IoError when the system has none left. Neither is for many threads at once.
  void discard();
  void hold();

 private:
  std::size_t bytes_;
  std::byte* data_ = nullptr;
};

struct StorageStats {
  std::size_t in_use = 0;  // bytes in blocks that tensors hold
  std::size_t cached = 0;  // bytes that were in use and wait for it again
  std::size_t peak = 0;    // the largest in_use so far
};
StorageStats storage_stats();

// Gives cached memory back to the system.
void release_cached_blocks();

}  // namespace quern
