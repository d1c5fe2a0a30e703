// SPDX-License-Identifier: MIT
// Paths of recipe fields.
#include "quern/recipes/internal/recipe_path.h"

#include <algorithm>
#include <charconv>
#include <string_view>

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

}  // namespace

std::vector<PathStep> parse_path(const std::string& path) {
  std::vector<PathStep> steps;
  for (std::size_t begin = 0; begin <= path.size();) {
    const std::size_t end = std::min(path.find('.', begin), path.size());
    const auto step = parse_step(std::string_view(path).substr(begin, end - begin));
    if (!step) {
      throw ConfigError({.what = "'" + one_line(path) + "' is not the path of a field",
                         .hint = "as in optim.lr or data.train[0].path"});
    }
    steps.push_back(*step);
    begin = end + 1;
  }
  return steps;
}

}  // namespace quern::internal
