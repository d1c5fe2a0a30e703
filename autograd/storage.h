// SPDX-License-Identifier: MIT
// Memory of tensors. Freed blocks are kept by size and handed out again, since blocks given back to
// the system at every training step would cost page faults that outweigh the arithmetic.
#pragma once

#include <cstddef>
#include <memory>

namespace quern {

// At least `bytes` uninitialised bytes, aligned to 64; throws IoError when the system has none
// left.
std::shared_ptr<std::byte> allocate_block(std::size_t bytes);

struct StorageStats {
  std::size_t in_use = 0;  // bytes in blocks that tensors hold
  std::size_t cached = 0;  // bytes in blocks waiting for reuse
  std::size_t peak = 0;    // the largest in_use so far
};
StorageStats storage_stats();

// Gives the cached blocks back to the system.
void release_cached_blocks();

}  // namespace quern
