// SPDX-License-Identifier: MIT
#include "quern/autograd/storage.h"

#include <sys/mman.h>

#include <bit>
#include <cstdlib>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "quern/autograd/error.h"

namespace quern {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;

#ifdef __SANITIZE_ADDRESS__
constexpr bool kReuse = false;  // so that the sanitizer sees every use after free
#else
constexpr bool kReuse = true;
#endif

// Eight classes for each power of two: at most an eighth of a block is unused.
std::size_t size_class(std::size_t bytes) {
  if (bytes <= 512) return (bytes + 63) / 64 * 64 + (bytes == 0 ? 64 : 0);
  const std::size_t unit = std::bit_floor(bytes) / 8;
  return (bytes + unit - 1) / unit * unit;
}

class Pool {
 public:
  std::byte* take(std::size_t size) {
    {
      const std::lock_guard lock(mutex_);
      stats_.in_use += size;
      if (stats_.in_use > stats_.peak) stats_.peak = stats_.in_use;
      auto& blocks = free_[size];
      if (!blocks.empty()) {
        std::byte* block = blocks.back();
        blocks.pop_back();
        stats_.cached -= size;
        return block;
      }
    }
    const std::size_t alignment = size >= kHugePage ? kHugePage : 64;
    void* block = std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
    if (block == nullptr) {
      throw IoError({.what = "out of memory", .actual = std::to_string(size) + " bytes asked"});
    }
    if (size >= kHugePage) madvise(block, size, MADV_HUGEPAGE);
    return static_cast<std::byte*>(block);
  }

  void give_back(std::byte* block, std::size_t size) {
    const std::lock_guard lock(mutex_);
    stats_.in_use -= size;
    if (!kReuse) return std::free(block);
    stats_.cached += size;
    free_[size].push_back(block);
  }

  void release() {
    const std::lock_guard lock(mutex_);
    for (auto& [size, blocks] : free_) {
      for (std::byte* block : blocks) std::free(block);
      blocks.clear();
    }
    stats_.cached = 0;
  }

  StorageStats stats() {
    const std::lock_guard lock(mutex_);
    return stats_;
  }

 private:
  std::mutex mutex_;
  std::unordered_map<std::size_t, std::vector<std::byte*>> free_;
  StorageStats stats_;
};

// The one process-wide state of the library; never destroyed, since tensors may outlive main.
Pool& pool() {
  static Pool* const instance = new Pool;
  return *instance;
}

}  // namespace

std::shared_ptr<std::byte> allocate_block(std::size_t bytes) {
  const std::size_t size = size_class(bytes);
  return {pool().take(size), [size](std::byte* block) { pool().give_back(block, size); }};
}

StorageStats storage_stats() { return pool().stats(); }

void release_cached_blocks() { pool().release(); }

}  // namespace quern
