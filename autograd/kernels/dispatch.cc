// SPDX-License-Identifier: MIT
// Sends each kernel to the instruction set in use. Double precision is for checks: always portable.
#include <type_traits>

#include "quern/autograd/kernels/cpu.h"
#include "quern/autograd/kernels/internal/list.h"

#define QUERN_DECLARE(function, Args) \
  template <class T>                  \
  void function(const Args<T>& args);

namespace quern::kernels {

namespace portable {
QUERN_ALL_KERNELS(QUERN_DECLARE)
}
#ifdef QUERN_X86_TIERS
namespace avx2 {
QUERN_ALL_KERNELS(QUERN_DECLARE)
}
namespace avx512 {
QUERN_ALL_KERNELS(QUERN_DECLARE)
}
namespace avx512_bf16 {
QUERN_ALL_KERNELS(QUERN_DECLARE)
}
namespace amx {
QUERN_ALL_KERNELS(QUERN_DECLARE)
}
#define QUERN_X86_CASES(function)                                          \
  if constexpr (!std::is_same_v<T, double>) {                              \
    if (set == KernelSet::amx) return amx::function(args);                 \
    if (set == KernelSet::avx512_bf16) return avx512_bf16::function(args); \
    if (set == KernelSet::avx512) return avx512::function(args);           \
    if (set == KernelSet::avx2) return avx2::function(args);               \
  }
#else
#define QUERN_X86_CASES(function)
#endif

#define QUERN_DISPATCH(function, Args)                   \
  template <class T>                                     \
  void function(const Args<T>& args) {                   \
    [[maybe_unused]] const KernelSet set = kernel_set(); \
    QUERN_X86_CASES(function)                            \
    portable::function(args);                            \
  }                                                      \
  template void function<float>(const Args<float>&);     \
  template void function<double>(const Args<double>&);
QUERN_ALL_KERNELS(QUERN_DISPATCH)

#define QUERN_DISPATCH_BF16(function, Args) template void function<bf16>(const Args<bf16>&);
QUERN_BF16_KERNELS(QUERN_DISPATCH_BF16)

}  // namespace quern::kernels
