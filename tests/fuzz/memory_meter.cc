// SPDX-License-Identifier: MIT
// Under AddressSanitizer by its hooks, else by taking the place of glibc's functions.
#include "tests/fuzz/memory_meter.h"

#include <malloc.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>

#if defined(__SANITIZE_ADDRESS__)
#define QUERN_FUZZ_ASAN
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define QUERN_FUZZ_ASAN
#endif
#endif

namespace quern::fuzz {
namespace {

// Plain globals, because malloc is called before any constructor has run.
std::atomic<bool> metering;
std::atomic<long> live, peak;
long limit;

void took(std::size_t bytes) {
  if (!metering.load(std::memory_order_relaxed)) return;
  const long now = live += long(bytes);
  long highest = peak;
  while (now > highest && !peak.compare_exchange_weak(highest, now)) {
  }
  if (now <= limit) return;
  metering = false;  // printing allocates
  std::fprintf(stderr, "guard: %ld live bytes, %ld are allowed for this input\n", now, limit);
  std::abort();
}

void gave_back(std::size_t bytes) {
  if (metering.load(std::memory_order_relaxed)) live -= long(bytes);
}

}  // namespace

void start_metering(std::size_t new_limit) {
  limit = long(new_limit);
  live = peak = 0;
  metering = true;
}

std::size_t stop_metering() {
  metering = false;
  return std::size_t(peak.load());
}

}  // namespace quern::fuzz

#ifdef QUERN_FUZZ_ASAN

extern "C" {
int __sanitizer_install_malloc_and_free_hooks(void (*)(const volatile void*, std::size_t),
                                              void (*)(const volatile void*));
std::size_t __sanitizer_get_allocated_size(const volatile void*);
}

namespace {
const int installed = __sanitizer_install_malloc_and_free_hooks(
    [](const volatile void*, std::size_t bytes) { quern::fuzz::took(bytes); },
    [](const volatile void* at) {
      if (at != nullptr) quern::fuzz::gave_back(__sanitizer_get_allocated_size(at));
    });
}  // namespace

#else

extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);
void __libc_free(void*);

static void* counted(void* at) {
  if (at != nullptr) quern::fuzz::took(malloc_usable_size(at));
  return at;
}

void* malloc(std::size_t bytes) { return counted(__libc_malloc(bytes)); }
void* calloc(std::size_t n, std::size_t bytes) { return counted(__libc_calloc(n, bytes)); }
void* memalign(std::size_t to, std::size_t bytes) { return counted(__libc_memalign(to, bytes)); }
void* aligned_alloc(std::size_t to, std::size_t bytes) { return memalign(to, bytes); }

int posix_memalign(void** at, std::size_t to, std::size_t bytes) {
  *at = memalign(to, bytes);
  return *at == nullptr ? ENOMEM : 0;
}

void free(void* at) {
  if (at != nullptr) quern::fuzz::gave_back(malloc_usable_size(at));
  __libc_free(at);
}

void* realloc(void* at, std::size_t bytes) {
  const std::size_t before = at == nullptr ? 0 : malloc_usable_size(at);
  void* const now = __libc_realloc(at, bytes);
  if (now == nullptr && bytes > 0) return nullptr;  // the old block stays
  quern::fuzz::gave_back(before);
  return now == nullptr ? nullptr : counted(now);
}
}

#endif
