// SPDX-License-Identifier: MIT
// Included by the files that are compiled once for each instruction set, with QUERN_TIER as the
// namespace of their functions and Eigen's namespace renamed (-DEigen=...): nothing that such a
// file instantiates may be shared with another, or a processor would meet instructions it does not
// have. So these files use raw pointers, Eigen and their own templates, and nothing of the standard
// library that is more than a macro or is always inlined.
#pragma once

#include "quern/autograd/kernels/internal/list.h"

#ifndef QUERN_TIER
#error "compiled for no tier: see autograd/CMakeLists.txt"
#endif

namespace quern::kernels::QUERN_TIER {

#define QUERN_DECLARE(function, Args) \
  template <class T>                  \
  void function(const Args<T>& args);
QUERN_ALL_KERNELS(QUERN_DECLARE)
#undef QUERN_DECLARE

}  // namespace quern::kernels::QUERN_TIER

#define QUERN_INSTANTIATE_BF16(function, Args) template void function<bf16>(const Args<bf16>&);

// Instantiations: float in every tier, double in the portable one only.
#ifdef QUERN_TIER_HAS_DOUBLE
#define QUERN_INSTANTIATE(function, Args)            \
  template void function<float>(const Args<float>&); \
  template void function<double>(const Args<double>&);
#else
#define QUERN_INSTANTIATE(function, Args) template void function<float>(const Args<float>&);
#endif
