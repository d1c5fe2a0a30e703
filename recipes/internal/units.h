// SPDX-License-Identifier: MIT
// Numbers as people read them, short: in the progress line and in the report.
#pragma once

#include <cstddef>
#include <string>

#include "quern/autograd/kernels/types.h"

namespace quern::internal {

std::string fixed_text(double x, int decimals);  // "4.312"; "-" when not finite
std::string short_text(double x);                // "4.31", "12k", "5.2M", "8e-04"; "-"
std::string count_text(i64 n);                   // "1,234,567"
std::string bytes_text(std::size_t bytes);       // "512 MB", "1.2 GB"
std::string duration_text(double seconds);       // "42s", "3m10s", "2h05m", "3d04h"; "-"

}  // namespace quern::internal
