// SPDX-License-Identifier: MIT
// What a misspelt name may have meant: the hint of many an error.
#pragma once

#include <span>
#include <string>

namespace quern {

// The name nearest to `name` by edit distance; empty if none is near.
std::string nearest_name(const std::string& name, std::span<const std::string> names);

}  // namespace quern
