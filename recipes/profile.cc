// SPDX-License-Identifier: MIT
#include "quern/recipes/profile.h"

#include <algorithm>
#include <cctype>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>

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

// Sees every operation of a tape, and how long it was since it last saw one.
class Recorder {
 public:
  explicit Recorder(Profile& profile) : profile_(profile) {}

  void start() { origin_ = last_ = seconds_now(); }
  TapeWatch watch() {
    last_ = seconds_now();
    TapeWatch watch;
    watch.output = [this](const char* op, const std::string& module, const Tensor& y) {
      add(op, module, false, double(y.bytes().size()));
    };
    watch.gradient = [this](const char* op, const std::string& module, const Parameter*,
                            const Tensor&) { add(op, module, true, 0); };
    return watch;
  }

 private:
  void add(const char* op, const std::string& module, bool backward, double bytes) {
    const double now = seconds_now(), seconds = now - last_;
    for (ProfileRow* row : {&profile_.by_op[op], &profile_.by_module[without_numbers(module)]}) {
      (backward ? row->backward_s : row->forward_s) += seconds;
      row->calls += !backward;
      row->bytes += bytes;
    }
    profile_.events.push_back({op, module, backward, last_ - origin_, seconds});
    last_ = now;
  }

  Profile& profile_;
  double origin_ = 0, last_ = 0;
};

std::string rows_text(const char* title, const std::map<std::string, ProfileRow>& rows, i64 steps,
                      double step_s) {
  std::vector<std::pair<std::string, ProfileRow>> sorted(rows.begin(), rows.end());
  std::ranges::stable_sort(
      sorted, [](const auto& a, const auto& b) { return a.second.seconds() > b.second.seconds(); });
  size_t width = std::string(title).size();
  for (const auto& [name, row] : sorted) width = std::max(width, name.size());
  char line[256];
  std::string text = title + std::string(width - std::string(title).size(), ' ') +
                     "  forward ms  backward ms   share   calls  results MB\n";
  for (const auto& [name, row] : sorted) {
    const double n = double(steps);
    std::snprintf(line, sizeof line, "  %10.2f  %11.2f  %5.1f%%  %6.0f  %10.1f\n",
                  1e3 * row.forward_s / n, 1e3 * row.backward_s / n, 100 * row.seconds() / step_s,
                  double(row.calls) / n, row.bytes / n / 1e6);
    text += name + std::string(width - name.size(), ' ') + line;
  }
  return text;
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
  }
  return profile;
}

std::string table_of(const Profile& p) {
  double operations = 0;
  for (const auto& [name, row] : p.by_op) operations += row.seconds();
  char line[256];
  const double n = double(p.steps);
  std::snprintf(line, sizeof line,
                "%lld steps of %.2f ms: operations %.2f, optimizer %.2f, other %.2f\n\n",
                static_cast<long long>(p.steps), 1e3 * p.step_s / n, 1e3 * operations / n,
                1e3 * p.optimizer_s / n, 1e3 * (p.step_s - operations - p.optimizer_s) / n);
  return line + rows_text("operation", p.by_op, p.steps, p.step_s) + "\n" +
         rows_text("module", p.by_module, p.steps, p.step_s);
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
