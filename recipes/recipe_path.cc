// SPDX-License-Identifier: MIT
// Paths of recipe fields, and names near a misspelt one.
#include "quern/recipes/internal/recipe_path.h"

#include <algorithm>
#include <charconv>
#include <numeric>
#include <string_view>
#include <utility>

#include "quern/autograd/error.h"
#include "quern/recipes/internal/text_file.h"

namespace quern::internal {
namespace {

// "train[0]" or "train"; nothing if it is neither.
std::optional<PathStep> parse_step(std::string_view text) {
  PathStep step;
  const std::size_t bracket = text.find('[');
  step.name = text.substr(0, bracket);
  if (step.name.empty()) return std::nullopt;
  if (bracket == std::string_view::npos) return step;
  const char* end = text.data() + text.size();
  int index = 0;
  const auto [next, error] = std::from_chars(text.data() + bracket + 1, end, index);
  if (error != std::errc() || index < 0 || next + 1 != end || *next != ']') return std::nullopt;
  step.index = index;
  return step;
}

// The fewest letters inserted, removed or replaced that turn `a` into `b` (Levenshtein).
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = std::exchange(row[j], std::min({row[j] + 1, row[j - 1] + 1, replaced}));
    }
  }
  return row.back();
}

}  // namespace

std::vector<PathStep> parse_path(const std::string& path) {
  std::vector<PathStep> steps;
  for (std::size_t begin = 0; begin <= path.size();) {
    const std::size_t end = std::min(path.find('.', begin), path.size());
    const auto step = parse_step(std::string_view(path).substr(begin, end - begin));
    if (!step) throw ConfigError({.what = "'" + one_line(path) + "' is not the path of a field"});
    steps.push_back(*step);
    begin = end + 1;
  }
  return steps;
}

std::string nearest_name(const std::string& name, std::span<const std::string> names) {
  constexpr std::size_t kLongest = 64;  // nothing longer is near, and time stays bounded
  if (name.size() > kLongest) return "";
  std::string nearest;
  std::size_t least = 1 + name.size() / 3;
  for (const std::string& candidate : names) {
    const std::size_t distance = edit_distance(name, candidate);
    if (distance > least || (distance == least && !nearest.empty())) continue;
    least = distance;
    nearest = candidate;
  }
  return nearest;
}

}  // namespace quern::internal
