// SPDX-License-Identifier: MIT
// Notices MoE layers whose router has collapsed: few experts get all tokens, and the others no
// gradient to come back with.
#pragma once

#include <deque>
#include <string>
#include <vector>

#include "quern/layers/config.h"
#include "quern/recipes/metrics.h"

namespace quern {

// A layer has collapsed when, over the last kWindow steps, a quarter of its experts had no token at
// all; or when one expert took 0.9 of all that one expert can take, where that is four times its
// even share or more. It has recovered when both are below half of that.
class CollapseAlarm {
 public:
  static constexpr std::size_t kWindow = 50;

  explicit CollapseAlarm(const ModelConfig& config);

  // After each step. A sentence for each layer that has collapsed with it, with layer and figure;
  // none for one that had before and has not recovered since.
  std::vector<std::string> look(const StepMetrics& step);

 private:
  struct Layer {
    std::string name;
    std::deque<std::vector<double>> loads;  // of the window, each over its mean
    bool collapsed = false;
  };
  std::string examine(Layer& layer) const;

  double largest_load_;  // over the mean: of an expert that every token chooses
  std::vector<Layer> layers_;
};

}  // namespace quern
