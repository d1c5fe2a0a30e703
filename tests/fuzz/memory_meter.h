// SPDX-License-Identifier: MIT
// Counts the bytes that malloc and its relatives have handed out, in the whole process.
#pragma once

#include <cstddef>

namespace quern::fuzz {

// From here on: aborts in the allocation that takes the live bytes above `limit`.
void start_metering(std::size_t limit);

// The most bytes that were live since start_metering(), beyond those of that moment.
std::size_t stop_metering();

}  // namespace quern::fuzz
