// SPDX-License-Identifier: MIT
#include "quern/recipes/load_history.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace quern {
namespace {

using Load = std::vector<std::vector<double>>;

bool usable(const Load& load) {
  return !load.empty() && std::ranges::all_of(load, [](const std::vector<double>& layer) {
    return std::ranges::all_of(layer, [](double x) { return std::isfinite(x); });
  });
}

bool same_shape(const Load& a, const Load& b) {
  return std::ranges::equal(a, b,
                            [](const auto& x, const auto& y) { return x.size() == y.size(); });
}

// The mean of both, each weighed by its steps.
void merge(LoadHistory::Span& into, const LoadHistory::Span& next) {
  const double share = double(next.steps) / double(into.steps + next.steps);
  for (std::size_t l = 0; l < into.load.size(); ++l) {
    for (std::size_t e = 0; e < into.load[l].size(); ++e) {
      into.load[l][e] += share * (next.load[l][e] - into.load[l][e]);
    }
  }
  into.last_step = next.last_step;
  into.steps += next.steps;
}

}  // namespace

void LoadHistory::add(i64 step, const Load& load) {
  if (!usable(load) || (!spans_.empty() && !same_shape(load, spans_.front().load))) return;
  Span span{step, step, 1, load};
  if (!spans_.empty() && spans_.back().steps < steps_per_span_) {
    merge(spans_.back(), span);
    return;
  }
  if (spans_.size() == kMaxSpans) halve();
  spans_.push_back(std::move(span));
}

void LoadHistory::halve() {
  for (std::size_t i = 0; i < spans_.size() / 2; ++i) {
    Span merged = std::move(spans_[2 * i]);
    merge(merged, spans_[2 * i + 1]);
    spans_[i] = std::move(merged);
  }
  spans_.resize(spans_.size() / 2);
  steps_per_span_ *= 2;
}

}  // namespace quern
