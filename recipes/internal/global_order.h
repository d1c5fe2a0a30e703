// SPDX-License-Identifier: MIT
// Lists with an entry for each parameter, put together from ranks that have different experts.
#pragma once

#include <span>
#include <vector>

#include "quern/autograd/parameter.h"

namespace quern {

// Which of them are spread over ranks.
inline std::vector<bool> spread_ones(std::span<Parameter* const> parameters) {
  std::vector<bool> spread;
  for (const Parameter* p : parameters) spread.push_back(p->kind == ParamKind::routed_expert);
  return spread;
}

// `own` in the order of Model::visit() on one rank with all experts: behind the experts that a rank
// has of a layer come those of the next rank. gather(the spread entries of `own`) -> those of every
// rank of the group, by rank; each has as many.
template <class T, class Gather>
std::vector<T> in_global_order(const std::vector<T>& own, const std::vector<bool>& spread,
                               Gather&& gather) {
  std::vector<T> mine;
  for (size_t i = 0; i < own.size(); ++i) {
    if (spread[i]) mine.push_back(own[i]);
  }
  const std::vector<std::vector<T>> by_rank = gather(std::span<const T>(mine));
  std::vector<T> all;
  size_t seen = 0;  // spread ones so far
  for (size_t i = 0; i < own.size();) {
    if (!spread[i]) {
      all.push_back(own[i++]);
      continue;
    }
    size_t run = 0;
    while (i + run < own.size() && spread[i + run]) ++run;
    for (const std::vector<T>& of_rank : by_rank) {
      const auto begin = of_rank.begin() + std::ptrdiff_t(seen);
      all.insert(all.end(), begin, begin + std::ptrdiff_t(run));
    }
    seen += run;
    i += run;
  }
  return all;
}

}  // namespace quern
