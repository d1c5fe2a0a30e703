// SPDX-License-Identifier: MIT
#include "quern/recipes/internal/step_metrics.h"

#include <algorithm>
#include <cmath>

namespace quern {

namespace {

// From the loads over their mean, and from what the router says itself.
RouterMetrics router_metrics(const std::vector<double>& load, const RouterFigures& figures) {
  RouterMetrics m;
  m.max_load = *std::max_element(load.begin(), load.end());
  m.min_load = *std::min_element(load.begin(), load.end());
  for (const double x : load) {
    const double share = x / double(load.size());
    if (x > 0) m.load_entropy -= share * std::log(share);
    m.dead += x == 0;
  }
  m.gate_entropy = figures.gate_entropy;
  m.weight_sum = figures.weight_sum;
  m.devices = figures.devices;
  m.dropped = figures.dropped;
  m.expert_loss = figures.expert_loss;
  m.device_loss = figures.device_loss;
  m.communication_loss = figures.communication_loss;
  m.z_loss = figures.z_loss;
  return m;
}

}  // namespace

StepMetrics metrics_of(const StepReport& report, const Progress& progress) {
  StepMetrics m;
  m.step = progress.step;
  m.tokens_seen = progress.tokens_seen;
  m.loss = report.loss;
  m.aux_loss = report.aux_loss;
  m.nextn_loss = report.nextn_loss;
  m.lr = report.lr;
  m.grad_norm = report.grad_norm;
  m.forward_backward_s = report.forward_backward_s;
  m.optimizer_s = report.optimizer_s;
  for (size_t index = 0; index < report.expert_load.size(); ++index) {
    const std::vector<i64>& layer = report.expert_load[index];
    double sum = 0;
    for (const i64 n : layer) sum += double(n);
    std::vector<double>& relative = m.expert_load.emplace_back();
    for (const i64 n : layer) relative.push_back(double(n) * double(layer.size()) / sum);
    m.router.push_back(router_metrics(relative, report.router[index]));
    m.dead_experts += i64(m.router.back().dead);
    m.load_max_over_mean = std::max(m.load_max_over_mean, m.router.back().max_load);
  }
  return m;
}

}  // namespace quern
