// SPDX-License-Identifier: MIT
// What this machine gives a process: processor, memory, and the limits of its control group.
#pragma once

#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "quern/autograd/kernels/types.h"

namespace quern {

// Each reads below `root`, which tests replace by a folder of their own.
std::string processor_name(const std::filesystem::path& root = "/");
std::vector<std::string> processor_flags(const std::filesystem::path& root = "/");
i64 memory_total_bytes(const std::filesystem::path& root = "/");      // 0: unknown
i64 memory_available_bytes(const std::filesystem::path& root = "/");  // 0: unknown

// The tightest limits on the way from this process's group to the top, of version 1 or 2.
struct GroupLimits {
  static constexpr i64 kNoLimit = std::numeric_limits<i64>::max();
  double cores = std::numeric_limits<double>::infinity();  // of the CPU quota
  i64 memory_bytes = kNoLimit;
};
GroupLimits group_limits(const std::filesystem::path& root = "/");

}  // namespace quern
