// SPDX-License-Identifier: MIT
// Where a run takes place: the machine, and the program that was built for it.
#pragma once

#include <string>

#include "quern/recipes/describe.h"

namespace quern {

// Processor, memory, threads, kernels, system, compiler, version.
Rows describe_environment();

// "0.1.0, commit f81a905"; without the commit where Quern was not built from a clone.
std::string version_text();

}  // namespace quern
