// SPDX-License-Identifier: MIT
#include "quern/autograd/kernels/cpu.h"

#include <cstdlib>

namespace quern {

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
  }
  return "?";
}

std::optional<KernelSet> kernel_set_named(std::string_view name) {
  for (const KernelSet set : kKernelSets) {
    if (name == name_of(set)) return set;
  }
  return std::nullopt;
}

KernelSet best_kernel_set() {
#ifdef QUERN_X86_TIERS
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
    return __builtin_cpu_supports("avx512bf16") ? KernelSet::avx512_bf16 : KernelSet::avx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return KernelSet::avx2;
#endif
  return KernelSet::portable;
}

// Intel's cores take twice as long for the instruction as for a multiply-add of f32, which leaves
// nothing of its two products; AMD's take as long.
bool multiplies_bf16_faster([[maybe_unused]] KernelSet set) {
#ifdef QUERN_X86_TIERS
  __builtin_cpu_init();
  return set == KernelSet::avx512_bf16 && __builtin_cpu_is("amd");
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
