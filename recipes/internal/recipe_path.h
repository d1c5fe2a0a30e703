// SPDX-License-Identifier: MIT
// Paths of recipe fields, "data.train[0].weight".
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace quern::internal {

struct PathStep {
  std::string name;
  std::optional<int> index;
};

// At least one step. Throws ConfigError if `path` is not of the form name[index].name ...
std::vector<PathStep> parse_path(const std::string& path);

}  // namespace quern::internal
