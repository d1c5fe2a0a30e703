// SPDX-License-Identifier: MIT
#include "tests/golden/layout.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <sstream>

#include "quern/distributed/grad_sync.h"
#include "quern/recipes/internal/global_order.h"

namespace quern::golden {
namespace {

// The last `by` of `batch` parts become the first.
Tensor turned(const Tensor& values, i64 batch, i64 by) {
  if (by % batch == 0) return values;
  const Tensor result = values.clone();
  const auto bytes = result.bytes();
  const size_t part = bytes.size() / size_t(batch);
  std::rotate(bytes.begin(), bytes.end() - std::ptrdiff_t(part * size_t(by % batch)), bytes.end());
  return result;
}

}  // namespace

Tensor Layout::turn(const Tensor& values) const {
  return turned(values, values.dim(0), groups_.world.rank());
}

Tensor Layout::turn_back(const Tensor& values, i64 batch) const {
  return turned(values, batch, batch - groups_.world.rank() % batch);
}

void Layout::turn_back(ModelOutput& out, i64 batch) const {
  const auto back = [&](Tensor& t) { t = turn_back(t, batch); };
  for (auto& layer : out.trace) {
    back(layer.hidden);
    back(layer.attn_out);
    back(layer.mlp_out);
  }
  back(out.last_hidden);
  for (RouterStats& router : out.router) {
    back(router.logits);
    back(router.expert_ids);
    back(router.weights);
  }
}

void Layout::sum_gradients(Model& model) const {
  model.sum_over_senders();
  std::vector<Parameter*> common, spread;
  model.visit(
      [&](Parameter& p) { (p.kind == ParamKind::routed_expert ? spread : common).push_back(&p); });
  quern::sum_gradients(common, groups_.world);
  quern::sum_gradients(spread, groups_.expert_dp);
}

double Layout::norm(const std::vector<double>& squares,
                    const std::vector<Parameter*>& parameters) const {
  const std::vector<double> sums = in_global_order<double>(
      squares, spread_ones(parameters),
      [&](std::span<const double> spread) { return groups_.ep.all_gather_values(spread); });
  return std::sqrt(std::accumulate(sums.begin(), sums.end(), 0.0));
}

std::vector<std::string> Layout::everywhere(const std::vector<std::string>& names) const {
  if (groups_.ep.alone()) return names;
  std::string joined;
  for (const std::string& name : names) joined += name + "\n";
  std::vector<std::string> all;
  for (const auto& text : groups_.ep.all_gather_values(std::span<const char>(joined))) {
    std::istringstream lines(std::string(text.begin(), text.end()));
    for (std::string name; std::getline(lines, name);) {
      if (std::find(all.begin(), all.end(), name) == all.end()) all.push_back(name);
    }
  }
  return all;
}

}  // namespace quern::golden
