// SPDX-License-Identifier: MIT
#include "quern/autograd/kernels/cpu.h"

#ifdef QUERN_X86_TIERS
#include <cpuid.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/syscall.h>
#endif
#endif

#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace quern {
namespace {

#ifdef QUERN_X86_TIERS

// Bits of leaf 7: AMX-TILE and AMX-BF16 (Intel SDM, CPUID).
bool has_tiles() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned kTile = 1u << 24, kBf16 = 1u << 22;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & kTile) != 0 && (d & kBf16) != 0;
}

// Empty if this process may use tile registers, else what the system says.
std::string ask_for_tiles() {
#ifdef __linux__
  // arch_prctl(2): ARCH_REQ_XCOMP_PERM of XFEATURE_XTILEDATA.
  if (syscall(SYS_arch_prctl, 0x1023, 18) == 0) return "";
  return std::strerror(errno);
#else
  return "asking for them is known for Linux alone";
#endif
}

KernelSet best_without_tiles() {
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
    return __builtin_cpu_supports("avx512bf16") ? KernelSet::avx512_bf16 : KernelSet::avx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return KernelSet::avx2;
  return KernelSet::portable;
}

struct Processor {
  KernelSet best = best_without_tiles();
  std::string refusal;

  Processor() {
    if (best != KernelSet::avx512_bf16 || !has_tiles()) return;
    refusal = ask_for_tiles();
    if (refusal.empty()) best = KernelSet::amx;
  }
};

#else

struct Processor {
  KernelSet best = KernelSet::portable;
  std::string refusal;
};

#endif

const Processor& processor() {
  static const Processor found;
  return found;
}

}  // namespace

const char* name_of(KernelSet set) {
  switch (set) {
    case KernelSet::portable:
      return "portable";
    case KernelSet::avx2:
      return "avx2";
    case KernelSet::avx512:
      return "avx512";
    case KernelSet::avx512_bf16:
      return "avx512_bf16";
    case KernelSet::amx:
      return "amx";
  }
  return "?";
}

std::optional<KernelSet> kernel_set_named(std::string_view name) {
  for (const KernelSet set : kKernelSets) {
    if (name == name_of(set)) return set;
  }
  return std::nullopt;
}

KernelSet best_kernel_set() { return processor().best; }

std::string tiles_refused() { return processor().refusal; }

// Intel's cores take twice as long for the instruction as for a multiply-add of f32, which leaves
// nothing of its two products; AMD's take as long.
bool multiplies_bf16_faster([[maybe_unused]] KernelSet set) {
#ifdef QUERN_X86_TIERS
  __builtin_cpu_init();
  return set == KernelSet::amx || (set == KernelSet::avx512_bf16 && __builtin_cpu_is("amd"));
#else
  return false;
#endif
}

KernelSet kernel_set() {
  static const KernelSet chosen = [] {
    const KernelSet best = best_kernel_set();
    const char* name = std::getenv("QUERN_KERNELS");
    if (name == nullptr) return best;
    const auto asked = kernel_set_named(name);
    return asked && *asked < best ? *asked : best;
  }();
  return chosen;
}

}  // namespace quern
