// SPDX-License-Identifier: MIT
#include "quern/recipes/network_report.h"

#include <cstdarg>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "quern/recipes/internal/units.h"

namespace quern {
namespace {

using internal::bytes_text;
using internal::short_text;
using nlohmann::ordered_json;

[[gnu::format(printf, 1, 2)]] std::string line(const char* format, ...) {
  char text[256];
  va_list values;
  va_start(values, format);
  std::vsnprintf(text, sizeof text, format, values);
  va_end(values);
  return text;
}

double tokens_of(const NetworkReport& r, const StepPrediction& p) {
  return double(p.layout.ranks * p.micro_batches * r.tokens_of_micro_batch);
}

// The predictions for each number of ranks together.
std::vector<std::span<const StepPrediction>> by_ranks(const std::vector<StepPrediction>& all) {
  std::vector<std::span<const StepPrediction>> parts;
  for (size_t begin = 0, end = 0; begin < all.size(); begin = end) {
    while (end < all.size() && all[end].layout.ranks == all[begin].layout.ranks) ++end;
    parts.emplace_back(all.data() + begin, end - begin);
  }
  return parts;
}

std::string link_text(const char* what, const LinkCost& cost, std::span<const TimedTraffic> times) {
  double sum = 0;
  for (const TimedTraffic& t : times) sum += std::abs(cost.seconds(t.traffic) / t.seconds - 1);
  const double rate = cost.beta > 0 ? 1 / cost.beta / 1e9 : 0;
  return line("%-12s alpha %8.2f us   beta %8.4f ns/byte (%s GB/s)   off by %.0f %% on average\n",
              what, cost.alpha * 1e6, cost.beta * 1e9, rate > 0 ? short_text(rate).c_str() : "-",
              100 * sum / double(times.size()));
}

std::string layout_text(const NetworkReport& r, const StepPrediction& p, bool best) {
  return line("%6lld %8lld %12.0f %10.4f %10.4f %10.4f %10.4f %12s %9s %s\n",
              static_cast<long long>(p.layout.ranks), static_cast<long long>(p.layout.ep_size),
              tokens_of(r, p), p.compute, p.gradients + p.weights + p.agreement, p.experts,
              p.seconds(), short_text(tokens_of(r, p) / p.seconds()).c_str(),
              bytes_text(size_t(p.memory)).c_str(),
              best                          ? "<- recommended"
              : p.memory > r.memory_of_rank ? "too large"
                                            : "");
}

ordered_json json_of(const LinkCost& cost, std::span<const TimedTraffic> times) {
  ordered_json object{{"alpha_s", cost.alpha}, {"beta_s_per_byte", cost.beta}};
  for (const TimedTraffic& t : times) {
    object["measured"].push_back(
        {{"messages", t.traffic.messages}, {"bytes", t.traffic.bytes}, {"seconds", t.seconds}});
  }
  return object;
}

ordered_json json_of(const NetworkReport& r, const StepPrediction& p, bool best) {
  return {{"ranks", p.layout.ranks},
          {"ep_size", p.layout.ep_size},
          {"tokens_per_step", tokens_of(r, p)},
          {"compute_s", p.compute},
          {"gradients_s", p.gradients},
          {"experts_s", p.experts},
          {"weights_s", p.weights},
          {"agreement_s", p.agreement},
          {"step_s", p.seconds()},
          {"memory_bytes", p.memory},
          {"recommended", best}};
}

}  // namespace

std::string table_of(const NetworkReport& r) {
  std::string text = line("measured between %lld ranks on %s\n", static_cast<long long>(r.ranks),
                          r.machines.c_str());
  text += link_text("message", r.cost.message, r.times.message);
  text += link_text("sum", r.cost.sum, r.times.sum);
  text += link_text("exchange", r.cost.exchange, r.times.exchange);
  text += line("%.0f %% of a sum disappear behind computing\n", 100 * r.cost.hidden);
  if (r.layouts.empty()) return text;
  text +=
      "\nmodel output, not measured: seconds of a step with these costs between all ranks, and "
      "the compute of a rank here\n";
  text += line("%6s %8s %12s %10s %10s %10s %10s %12s %9s\n", "ranks", "ep_size", "tokens/step",
               "compute", "gradients", "experts", "step", "tokens/s", "memory");
  for (const auto& part : by_ranks(r.layouts)) {
    const StepPrediction* best = recommended(part, r.memory_of_rank);
    for (const StepPrediction& p : part) text += layout_text(r, p, &p == best);
  }
  return text;
}

std::string json_of(const NetworkReport& r) {
  ordered_json object{{"ranks", r.ranks},
                      {"machines", r.machines},
                      {"message", json_of(r.cost.message, r.times.message)},
                      {"sum", json_of(r.cost.sum, r.times.sum)},
                      {"exchange", json_of(r.cost.exchange, r.times.exchange)},
                      {"hidden", r.cost.hidden}};
  for (const auto& part : by_ranks(r.layouts)) {
    const StepPrediction* best = recommended(part, r.memory_of_rank);
    for (const StepPrediction& p : part) {
      object["layouts_by_model"].push_back(json_of(r, p, &p == best));
    }
  }
  return object.dump(2) + "\n";
}

}  // namespace quern
