// SPDX-License-Identifier: MIT
#include "quern/recipes/profile.h"

#include <algorithm>
#include <cctype>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "quern/recipes/internal/operation_cost.h"
#include "quern/recipes/probe.h"
#include "quern/recipes/trainer.h"

namespace quern {
namespace {

constexpr i64 kWarmUp = 2;

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// "model.layers.3.mlp" -> "model.layers.*.mlp"
std::string without_numbers(const std::string& module) {
  std::string text;
  for (size_t i = 0; i < module.size(); ++i) {
    const bool begins = i == 0 || module[i - 1] == '.';
    if (begins && std::isdigit(static_cast<unsigned char>(module[i]))) {
      while (i + 1 < module.size() && module[i + 1] != '.') ++i;
      text += '*';
    } else {
      text += module[i];
    }
  }
  return text;
}

// "model.layers.3.mlp" -> "model.layers.3"
std::string layer_of(const std::string& module) {
  constexpr std::string_view kLayers = "model.layers.";
  return module.starts_with(kLayers) ? module.substr(0, module.find('.', kLayers.size())) : module;
}

// Sees every operation of a tape, and how long it was since it last saw one.
class Recorder {
 public:
  explicit Recorder(Profile& profile) : profile_(profile) {}

  void start() { origin_ = last_ = seconds_now(); }
  TapeWatch watch() {
    last_ = seconds_now();
    TapeWatch watch;
    watch.operation = [this](const char* op, const std::string& module, std::span<const Var> inputs,
                             std::span<const Var> outputs, bool recorded) {
      add(op, module, false, internal::cost_of(op, inputs, outputs, recorded));
    };
    watch.gradient = [this](const char* op, const std::string& module, const Parameter*,
                            const Tensor&) { add(op, module, true, {}); };
    return watch;
  }

 private:
  // The cost of backward comes with forward, which has the operands.
  void add(const char* op, const std::string& module, bool backward,
           const internal::OperationCost& cost) {
    const double now = seconds_now(), seconds = now - last_;
    for (ProfileRow* row : {&profile_.by_op[op], &profile_.by_layer[layer_of(module)],
                            &profile_.by_module[without_numbers(module)]}) {
      (backward ? row->backward_s : row->forward_s) += seconds;
      row->calls += !backward;
      row->flops += cost.forward.flops + cost.backward.flops;
      row->bytes += cost.forward.bytes + cost.backward.bytes;
    }
    profile_.events.push_back({op, module, backward, last_ - origin_, seconds});
    last_ = now;
  }

  Profile& profile_;
  double origin_ = 0, last_ = 0;
};

// An amount, how much of it a second, and what share that is of a rate; blank where there is none.
std::string rate_text(double amount, double seconds, double rate) {
  if (amount == 0 || seconds == 0) return std::string(32, ' ');
  char text[64];
  std::snprintf(text, sizeof text, "  %9.3f  %10.2f  %6.1f%%", amount / 1e9, amount / seconds / 1e9,
                100 * amount / seconds / rate);
  return text;
}

std::string rows_text(const char* title, const std::map<std::string, ProfileRow>& rows,
                      const Profile& profile) {
  std::vector<std::pair<std::string, ProfileRow>> sorted(rows.begin(), rows.end());
  std::ranges::stable_sort(
      sorted, [](const auto& a, const auto& b) { return a.second.seconds() > b.second.seconds(); });
  size_t width = std::string(title).size();
  for (const auto& [name, row] : sorted) width = std::max(width, name.size());
  char line[256];
  std::string text = title + std::string(width - std::string(title).size(), ' ') +
                     "  forward ms  backward ms   share   calls"
                     "      GFLOP     GFLOP/s  of rate         GB        GB/s  of rate\n";
  for (const auto& [name, row] : sorted) {
    const double n = double(profile.steps), seconds = row.seconds() / n;
    std::snprintf(line, sizeof line, "  %10.2f  %11.2f  %5.1f%%  %6.0f", 1e3 * row.forward_s / n,
                  1e3 * row.backward_s / n, 100 * row.seconds() / profile.step_s,
                  double(row.calls) / n);
    text += name + std::string(width - name.size(), ' ') + line +
            rate_text(row.flops / n, seconds, profile.product_rate) +
            rate_text(row.bytes / n, seconds, profile.memory_rate) + "\n";
  }
  return text;
}

// What AdamW and the norm of the gradients read and write in a step.
double bytes_of_optimizer(const AdamW& optimizer) {
  double bytes = 0;
  optimizer.visit([&](const Parameter& p, const Tensor& m, const Tensor& v) {
    const i64 own = p.value.numel() * size_of(p.value.dtype());
    bytes += double(4 * own) + 2.0 * double(m.bytes().size() + v.bytes().size());
    if (p.image.defined()) bytes += double(p.image.bytes().size());
  });
  return bytes;
}

}  // namespace

Profile profile_steps(const Recipe& recipe, std::shared_ptr<const Sampler> sampler, i64 steps) {
  Recipe trial = recipe;
  trial.train.steps = std::max(recipe.train.steps, steps + kWarmUp);
  trial.optim.warmup_steps = std::min(recipe.optim.warmup_steps, trial.train.steps);
  Profile profile, warm_up;
  Recorder ignored(warm_up), counted(profile);
  bool counts = false;
  Trainer trainer(trial, std::move(sampler),
                  {.watch = [&](i64, i64) { return counts ? counted.watch() : ignored.watch(); }});
  const DType operands = resolved_dtype(recipe.train) == "bf16" ? DType::bf16 : DType::f32;
  profile.product_rate = measure_product_rate(operands);
  profile.memory_rate = measure_memory_bandwidth();
  for (i64 s = 0; s < steps + kWarmUp; ++s) {
    if (s == kWarmUp) counted.start();
    counts = s >= kWarmUp;
    const Batch batch = trainer.batch_of(s, trainer.passed_over());
    const double begin = seconds_now();
    const StepReport report = trainer.step(batch);
    if (!counts) continue;
    ++profile.steps;
    profile.step_s += seconds_now() - begin;
    profile.optimizer_s += report.optimizer_s;
    profile.optimizer_bytes += bytes_of_optimizer(trainer.optimizer());
  }
  // What else runs on the machine may have been in the way of the first ones.
  profile.product_rate = std::max(profile.product_rate, measure_product_rate(operands));
  profile.memory_rate = std::max(profile.memory_rate, measure_memory_bandwidth());
  return profile;
}

std::string table_of(const Profile& p) {
  double operations = 0, flops = 0;
  for (const auto& [name, row] : p.by_op) {
    operations += row.seconds();
    flops += row.flops;
  }
  char lines[512];
  const double n = double(p.steps), bytes = p.optimizer_bytes;
  std::snprintf(lines, sizeof lines,
                "%lld steps of %.2f ms: operations %.2f, optimizer %.2f, other %.2f\n"
                "a product of 2048x512x2048 reaches %.1f GFLOP/s, the step %.1f (%.1f%%)\n"
                "c = a + 3 b over 64 MB each reaches %.1f GB/s, the optimizer %.1f (%.1f%%)\n\n",
                static_cast<long long>(p.steps), 1e3 * p.step_s / n, 1e3 * operations / n,
                1e3 * p.optimizer_s / n, 1e3 * (p.step_s - operations - p.optimizer_s) / n,
                p.product_rate / 1e9, flops / p.step_s / 1e9,
                100 * flops / p.step_s / p.product_rate, p.memory_rate / 1e9,
                bytes / p.optimizer_s / 1e9, 100 * bytes / p.optimizer_s / p.memory_rate);
  return lines + rows_text("operation", p.by_op, p) + "\n" + rows_text("layer", p.by_layer, p) +
         "\n" + rows_text("module", p.by_module, p);
}

std::string trace_of(const Profile& profile) {
  nlohmann::json events = nlohmann::json::array();
  for (const ProfileEvent& e : profile.events) {
    events.push_back({{"name", e.op},
                      {"cat", e.backward ? "backward" : "forward"},
                      {"ph", "X"},
                      {"ts", 1e6 * e.begin_s},
                      {"dur", 1e6 * e.seconds},
                      {"pid", 1},
                      {"tid", 1},
                      {"args", {{"module", e.module}}}});
  }
  return nlohmann::json{{"traceEvents", std::move(events)}, {"displayTimeUnit", "ms"}}.dump() +
         "\n";
}

}  // namespace quern
