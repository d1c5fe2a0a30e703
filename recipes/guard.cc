// SPDX-License-Identifier: MIT
#include "quern/recipes/guard.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <sstream>

#include "quern/autograd/error.h"
#include "quern/recipes/internal/units.h"

namespace quern {
namespace {

using internal::short_text;

constexpr double kMadToDeviation = 1.4826;  // for normally distributed values
constexpr double kNormFloor = 0.1;          // of the logarithm: 10 %
constexpr double kLossFloor = 0.01;         // of the median
constexpr double kSmallestNorm = 1e-30;     // has a logarithm

double median(std::vector<double> values) {
  const auto middle = values.begin() + std::ptrdiff_t(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

BadStepAction action_of(const std::string& policy) {
  if (policy == "skip") return BadStepAction::skip;
  return policy == "rollback" ? BadStepAction::rollback : BadStepAction::halt;
}

double log_of(double norm) { return std::log(std::max(norm, kSmallestNorm)); }

}  // namespace

std::optional<Symptom> NumericalGuard::examine(double loss, double aux_loss,
                                               double grad_norm) const {
  if (!std::isfinite(loss)) return Symptom{false, "loss is not finite"};
  if (!std::isfinite(aux_loss)) return Symptom{false, "aux_loss is not finite"};
  if (!std::isfinite(grad_norm)) return Symptom{false, "gradient norm is not finite"};
  if (recipe_.on_spike == "off" || i64(losses_.size()) < recipe_.spike_window) return std::nullopt;
  const double loss_floor = kLossFloor * std::abs(median(losses_));
  if (auto spike = spike_in("loss", losses_, loss, loss_floor)) return Symptom{true, *spike};
  if (auto spike =
          spike_in("log of the gradient norm", log_norms_, log_of(grad_norm), kNormFloor)) {
    return Symptom{true, *spike};
  }
  return std::nullopt;
}

std::optional<std::string> NumericalGuard::spike_in(const char* name,
                                                    const std::vector<double>& window, double value,
                                                    double floor) const {
  const double middle = median(window);
  std::vector<double> distances;
  for (const double x : window) distances.push_back(std::abs(x - middle));
  const double deviation = std::max(kMadToDeviation * median(std::move(distances)), floor);
  const double score = (value - middle) / std::max(deviation, 1e-300);
  if (!(score > recipe_.spike_zscore)) return std::nullopt;
  return std::string(name) + " " + short_text(value) + " is a spike: the last " +
         std::to_string(window.size()) + " good steps have a median of " + short_text(middle) +
         ", this is " + short_text(score) + " deviations above it";
}

BadStepAction NumericalGuard::refuse(const Symptom& symptom, i64 step) {
  const BadStepAction action = action_of(symptom.spike ? recipe_.on_spike : recipe_.on_bad_step);
  if (action == BadStepAction::skip && ++skips_ > recipe_.max_consecutive_skips) {
    return BadStepAction::halt;
  }
  if (action == BadStepAction::rollback) {
    skips_ = 0;
    failed_step_ = std::max(failed_step_, step);
    if (++rollbacks_ > recipe_.max_consecutive_skips) return BadStepAction::halt;
  }
  return action;
}

void NumericalGuard::accept(i64 step, double loss, double grad_norm) {
  skips_ = 0;
  if (step >= failed_step_) rollbacks_ = failed_step_ = 0;
  if (recipe_.on_spike == "off") return;
  const auto keep = [this](std::vector<double>& window, double value) {
    if (i64(window.size()) == recipe_.spike_window) window.erase(window.begin());
    window.push_back(value);
  };
  keep(losses_, loss);
  keep(log_norms_, log_of(grad_norm));
}

// "1 rollbacks failed_step losses... log_norms...", numbers with every bit.
std::string NumericalGuard::state() const {
  if (losses_.empty() && rollbacks_ == 0) return "";
  std::string text = "1 " + std::to_string(rollbacks_) + " " + std::to_string(failed_step_);
  for (const std::vector<double>* window : {&losses_, &log_norms_}) {
    for (const double x : *window) {
      char number[40];
      std::snprintf(number, sizeof number, " %a", x);
      text += number;
    }
  }
  return text;
}

void NumericalGuard::set_state(std::string_view text) {
  losses_.clear();
  log_norms_.clear();
  skips_ = rollbacks_ = failed_step_ = 0;
  if (text.empty()) return;
  std::istringstream in{std::string(text)};
  int version = 0;
  std::vector<double> numbers;
  in >> version >> rollbacks_ >> failed_step_;
  bool good = !in.fail() && version == 1 && rollbacks_ >= 0 && failed_step_ >= 0;
  for (std::string word; good && in >> word;) {
    char* end = nullptr;
    numbers.push_back(std::strtod(word.c_str(), &end));  // operator>> does not read %a
    good = end == word.c_str() + word.size() && std::isfinite(numbers.back());
  }
  if (!good || numbers.size() % 2 != 0) {
    throw CheckpointError({.key = "guard_state", .what = "is not the state of a guard"});
  }
  if (recipe_.on_spike == "off") return;
  // A window that the recipe has made shorter since keeps its newest steps.
  const std::size_t stored = numbers.size() / 2;
  const std::size_t kept = std::min(stored, std::size_t(recipe_.spike_window));
  const auto losses_end = numbers.begin() + std::ptrdiff_t(stored);
  losses_.assign(losses_end - std::ptrdiff_t(kept), losses_end);
  log_norms_.assign(numbers.end() - std::ptrdiff_t(kept), numbers.end());
}

void NumericalGuard::set_state_after_rollback(std::string_view text) {
  const i64 rollbacks = rollbacks_, failed_step = failed_step_;
  set_state(text);
  rollbacks_ = rollbacks;
  failed_step_ = failed_step;
}

}  // namespace quern
