// SPDX-License-Identifier: MIT
// What a report must show: every panel, each with something in it, on a page of its own.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace quern::testing {

// Faults of the report of a run of a mixture of experts that has evaluated, written samples and
// saved; empty when there are none.
std::vector<std::string> report_faults(std::string_view html);

}  // namespace quern::testing
