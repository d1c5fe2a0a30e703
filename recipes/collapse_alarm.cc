// SPDX-License-Identifier: MIT
#include "quern/recipes/collapse_alarm.h"

#include <algorithm>

#include "quern/recipes/internal/units.h"

namespace quern {
namespace {

constexpr double kDeadShare = 0.25, kBusiestShare = 0.9, kLeastLargestLoad = 4;

}  // namespace

CollapseAlarm::CollapseAlarm(const ModelConfig& c)
    : largest_load_(c.n_routed_experts == 0
                        ? 0
                        : double(c.n_routed_experts) / double(c.num_experts_per_tok)) {
  for (i64 i = 0; i < c.num_hidden_layers + c.num_nextn_predict_layers; ++i) {
    if (is_moe_layer(c, i)) layers_.push_back({"model.layers." + std::to_string(i) + ".mlp", {}});
  }
}

std::vector<std::string> CollapseAlarm::look(const StepMetrics& step) {
  std::vector<std::string> warnings;
  for (std::size_t i = 0; i < std::min(layers_.size(), step.expert_load.size()); ++i) {
    Layer& layer = layers_[i];
    layer.loads.push_back(step.expert_load[i]);
    if (layer.loads.size() > kWindow) layer.loads.pop_front();
    if (layer.loads.size() < kWindow) continue;
    if (const std::string what = examine(layer); !what.empty()) {
      warnings.push_back(layer.name + ": " + what + " in the last " + std::to_string(kWindow) +
                         " steps");
    }
  }
  return warnings;
}

// What has collapsed with the newest load; empty where nothing has.
std::string CollapseAlarm::examine(Layer& layer) const {
  std::vector<double> mean(layer.loads.back().size(), 0.0);
  for (const std::vector<double>& load : layer.loads) {
    for (std::size_t e = 0; e < std::min(load.size(), mean.size()); ++e) {
      mean[e] += load[e] / double(kWindow);
    }
  }
  const auto dead = std::ranges::count(mean, 0.0);
  const auto busiest = std::ranges::max_element(mean);
  const double dead_share = double(dead) / double(mean.size()) / kDeadShare;
  const double busiest_share =
      largest_load_ < kLeastLargestLoad ? 0 : *busiest / largest_load_ / kBusiestShare;
  const double worst = std::max(dead_share, busiest_share);
  if (layer.collapsed) layer.collapsed = worst >= 0.5;
  if (layer.collapsed || worst < 1) return "";
  layer.collapsed = true;
  if (dead_share >= 1) {
    return std::to_string(dead) + " of " + std::to_string(mean.size()) + " experts had no token";
  }
  return "expert " + std::to_string(busiest - mean.begin()) + " was chosen by " +
         internal::fixed_text(100 * *busiest / largest_load_, 0) + "% of the tokens";
}

}  // namespace quern
