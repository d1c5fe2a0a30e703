// SPDX-License-Identifier: MIT
#include "quern/recipes/internal/step_metrics.h"

#include <algorithm>

namespace quern {

StepMetrics metrics_of(const StepReport& report, const Progress& progress) {
  StepMetrics m;
  m.step = progress.step;
  m.tokens_seen = progress.tokens_seen;
  m.loss = report.loss;
  m.aux_loss = report.aux_loss;
  m.lr = report.lr;
  m.grad_norm = report.grad_norm;
  m.forward_backward_s = report.forward_backward_s;
  m.optimizer_s = report.optimizer_s;
  for (const std::vector<i64>& layer : report.expert_load) {
    double sum = 0;
    for (const i64 n : layer) sum += double(n);
    std::vector<double>& relative = m.expert_load.emplace_back();
    for (const i64 n : layer) {
      relative.push_back(double(n) * double(layer.size()) / sum);
      m.dead_experts += n == 0;
      m.load_max_over_mean = std::max(m.load_max_over_mean, relative.back());
    }
  }
  return m;
}

}  // namespace quern
