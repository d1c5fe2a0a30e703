// SPDX-License-Identifier: MIT
// Which set of kernels runs: found once from the processor; QUERN_KERNELS forces a lower one.
#pragma once

#include <optional>
#include <string_view>

namespace quern {

enum class KernelSet { portable, avx2, avx512 };

const char* name_of(KernelSet set);
std::optional<KernelSet> kernel_set_named(std::string_view name);

// The best set this processor can run.
KernelSet best_kernel_set();

// The set in use: QUERN_KERNELS where it names one that the processor can run, else the best.
KernelSet kernel_set();

}  // namespace quern
