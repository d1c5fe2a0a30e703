// SPDX-License-Identifier: MIT
// Paths of recipe fields, "data.train[0].weight", and the names a misspelt one may stand for.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

namespace quern::internal {

struct PathStep {
  std::string name;
  std::optional<int> index;
};

// At least one step. Throws ConfigError if `path` is not of the form name[index].name ...
std::vector<PathStep> parse_path(const std::string& path);

// The name nearest to `name` by edit distance; empty if none is near.
std::string nearest_name(const std::string& name, std::span<const std::string> names);

}  // namespace quern::internal
