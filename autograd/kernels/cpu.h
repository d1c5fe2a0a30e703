// SPDX-License-Identifier: MIT
// Which set of kernels runs: found once from the processor; QUERN_KERNELS forces a lower one.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace quern {

// avx512_bf16 multiplies pairs of bf16 in one instruction; that pays where it is faster than f32.
// amx multiplies bf16 in tile registers, which the system has to grant, and else is avx512_bf16.
enum class KernelSet { portable, avx2, avx512, avx512_bf16, amx };
inline constexpr KernelSet kKernelSets[] = {KernelSet::portable, KernelSet::avx2, KernelSet::avx512,
                                            KernelSet::avx512_bf16, KernelSet::amx};

const char* name_of(KernelSet set);
std::optional<KernelSet> kernel_set_named(std::string_view name);

// The best set this processor can run. The first call asks the system for what amx needs, which is
// granted to the whole process; best before there are threads.
KernelSet best_kernel_set();

// Why amx is not the best set of a processor that has it; else empty.
std::string tiles_refused();

// Whether a product of bf16 operands is faster than one of f32 with this set.
bool multiplies_bf16_faster(KernelSet set);

// The set in use: QUERN_KERNELS where it names one that the processor can run, else the best.
KernelSet kernel_set();

}  // namespace quern
