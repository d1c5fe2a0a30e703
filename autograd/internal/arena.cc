// SPDX-License-Identifier: MIT
#include "quern/autograd/internal/arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <iterator>

namespace quern {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;
constexpr std::size_t kSegment = std::size_t{256} << 20;  // addresses; memory only where touched

std::size_t rounded_up(std::size_t size, std::size_t to) { return (size + to - 1) / to * to; }

// `size` bytes of fresh addresses from the start of a huge page on, or null.
std::byte* map_segment(std::size_t size) {
  void* const got = mmap(nullptr, size + kHugePage, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (got == MAP_FAILED) return nullptr;
  auto* const start = static_cast<std::byte*>(got);
  const std::size_t skipped =
      (kHugePage - reinterpret_cast<std::uintptr_t>(got) % kHugePage) % kHugePage;
  if (skipped > 0) munmap(start, skipped);
  if (skipped < kHugePage) munmap(start + skipped + size, kHugePage - skipped);
  madvise(start + skipped, size, MADV_HUGEPAGE);
  return start + skipped;
}

}  // namespace

std::byte* Arena::take(std::size_t size) {
  auto best = free_sizes_.lower_bound({size, nullptr});
  if (best == free_sizes_.end()) {
    if (!grow(size)) return nullptr;
    best = free_sizes_.lower_bound({size, nullptr});
  }
  const auto [whole, block] = *best;
  remove_free(free_.find(block));
  if (whole > size) add_free(block + size, whole - size);
  const auto segment = segment_of(block);
  const std::size_t end = std::size_t(block + size - segment->first);
  segment->second.used = std::max(segment->second.used, end);
  return block;
}

void Arena::give_back(std::byte* block, std::size_t size) {
  const auto segment = segment_of(block);
  auto after = free_.lower_bound(block);
  if (after != free_.end() && after->first == block + size &&
      after->first < segment->first + segment->second.size) {
    size += after->second;
    remove_free(after);
  }
  after = free_.lower_bound(block);
  if (after != free_.begin()) {
    const auto before = std::prev(after);
    if (before->first + before->second == block && before->first >= segment->first) {
      block = before->first;
      size += before->second;
      remove_free(before);
    }
  }
  add_free(block, size);
}

std::size_t Arena::cached() const {
  std::size_t sum = 0;
  for (const auto& [begin, segment] : segments_) {
    std::byte* const touched = begin + segment.used;
    for (auto place = free_.lower_bound(begin); place != free_.end() && place->first < touched;
         ++place) {
      sum += std::min(place->second, std::size_t(touched - place->first));
    }
  }
  return sum;
}

void Arena::release() {
  for (auto segment = segments_.begin(); segment != segments_.end();) {
    const auto place = free_.find(segment->first);
    if (place != free_.end() && place->second == segment->second.size) {
      munmap(segment->first, segment->second.size);
      remove_free(place);
      segment = segments_.erase(segment);
      continue;
    }
    ++segment;
  }
  for (const auto& [begin, size] : free_) {
    const std::uintptr_t from = rounded_up(reinterpret_cast<std::uintptr_t>(begin), kHugePage);
    const std::uintptr_t to =
        reinterpret_cast<std::uintptr_t>(begin + size) / kHugePage * kHugePage;
    if (from < to) madvise(reinterpret_cast<void*>(from), to - from, MADV_DONTNEED);
  }
}

bool Arena::grow(std::size_t size) {
  std::size_t bytes = std::max(kSegment, rounded_up(size, kHugePage));
  if (bytes < size) return false;
  std::byte* begin = map_segment(bytes);
  if (begin == nullptr) {  // where addresses are counted: no more than needed
    bytes = rounded_up(size, kHugePage);
    begin = map_segment(bytes);
  }
  if (begin == nullptr) return false;
  segments_[begin] = {bytes, 0};
  add_free(begin, bytes);
  return true;
}

void Arena::add_free(std::byte* begin, std::size_t size) {
  free_[begin] = size;
  free_sizes_.insert({size, begin});
}

void Arena::remove_free(std::map<std::byte*, std::size_t>::iterator place) {
  free_sizes_.erase({place->second, place->first});
  free_.erase(place);
}

std::map<std::byte*, Arena::Segment>::iterator Arena::segment_of(std::byte* block) {
  return std::prev(segments_.upper_bound(block));
}

}  // namespace quern
