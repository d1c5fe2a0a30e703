// SPDX-License-Identifier: MIT
#include "quern/autograd/storage.h"

#include <cstdlib>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "quern/autograd/error.h"
#include "quern/autograd/internal/arena.h"

namespace quern {
namespace {

#ifdef __SANITIZE_ADDRESS__
constexpr bool kReuse = false;  // so that the sanitizer sees every use after free
#else
constexpr bool kReuse = true;
#endif

// Smaller blocks are kept by size: among large ones they would be in the way.
constexpr std::size_t kLarge = std::size_t{64} << 10;

std::size_t rounded(std::size_t bytes) { return bytes == 0 ? 64 : (bytes + 63) / 64 * 64; }

class Pool {
 public:
  std::byte* take(std::size_t size) {
    const std::lock_guard lock(mutex_);
    std::byte* block = find(size);
    if (block == nullptr) {
      throw IoError({.what = "out of memory", .actual = std::to_string(size) + " bytes asked"});
    }
    stats_.in_use += size;
    if (stats_.in_use > stats_.peak) stats_.peak = stats_.in_use;
    return block;
  }

  void give_back(std::byte* block, std::size_t size) {
    const std::lock_guard lock(mutex_);
    stats_.in_use -= size;
    if (!kReuse) return std::free(block);
    if (size >= kLarge) return arena_.give_back(block, size);
    small_cached_ += size;
    small_[size].push_back(block);
  }

  void release() {
    const std::lock_guard lock(mutex_);
    for (auto& [size, blocks] : small_) {
      for (std::byte* block : blocks) std::free(block);
      blocks.clear();
    }
    small_cached_ = 0;
    arena_.release();
  }

  StorageStats stats() {
    const std::lock_guard lock(mutex_);
    StorageStats stats = stats_;
    stats.cached = small_cached_ + arena_.cached();
    return stats;
  }

 private:
  std::byte* find(std::size_t size) {
    if (kReuse && size >= kLarge) return arena_.take(size);
    auto& blocks = small_[size];
    if (blocks.empty()) return static_cast<std::byte*>(std::aligned_alloc(64, size));
    std::byte* block = blocks.back();
    blocks.pop_back();
    small_cached_ -= size;
    return block;
  }

  std::mutex mutex_;
  std::unordered_map<std::size_t, std::vector<std::byte*>> small_;
  std::size_t small_cached_ = 0;
  Arena arena_;
  StorageStats stats_;
};

// The one process-wide state of the library; never destroyed, since tensors may outlive main.
Pool& pool() {
  static Pool* const instance = new Pool;
  return *instance;
}

}  // namespace

void Storage::hold() {
  if (data_ == nullptr) data_ = pool().take(rounded(bytes_));
}

void Storage::discard() {
  if (data_ != nullptr) pool().give_back(data_, rounded(bytes_));
  data_ = nullptr;
}

StorageStats storage_stats() { return pool().stats(); }

void release_cached_blocks() { pool().release(); }

}  // namespace quern
