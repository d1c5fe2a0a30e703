// SPDX-License-Identifier: MIT
#include "quern/recipes/specialisation.h"

#include <algorithm>
#include <set>
#include <utility>

#include "quern/autograd/error.h"

namespace quern {
namespace {

constexpr i64 kMostPoints = 8;  // of the number of active experts

// A model with other routing, until it is destroyed.
class Changed {
 public:
  Changed(Model& model, i64 passed_over, i64 active, bool shared) : model_(model) {
    for (Block& layer : model.layers) {
      if (!layer.moe) continue;
      Moe& moe = *layer.moe;
      before_.push_back({moe.router.choice.top_k, {}});
      moe.router.passed_over = passed_over;
      moe.router.choice.top_k = active;
      if (!shared) std::swap(before_.back().shared, moe.shared_experts);
    }
  }
  ~Changed() {
    auto before = before_.begin();
    for (Block& layer : model_.layers) {
      if (!layer.moe) continue;
      layer.moe->router.passed_over = 0;
      layer.moe->router.choice.top_k = before->top_k;
      if (before->shared) std::swap(before->shared, layer.moe->shared_experts);
      ++before;
    }
  }
  Changed(const Changed&) = delete;
  Changed& operator=(const Changed&) = delete;

 private:
  struct Before {
    i64 top_k;
    std::optional<Mlp> shared;  // where it was taken out
  };
  Model& model_;
  std::vector<Before> before_;
};

// A sixteenth to four sixteenths of the experts, where as many as are active remain.
std::set<i64> counts_to_pass_over(i64 routed, i64 active) {
  std::set<i64> counts;
  for (i64 sixteenths = 1; sixteenths <= 4; ++sixteenths) {
    const i64 count = std::max<i64>(1, routed * sixteenths / 16);
    if (count <= routed - active) counts.insert(count);
  }
  return counts;
}

std::set<i64> counts_to_activate(i64 active) {
  std::set<i64> counts;
  const i64 points = std::min(active, kMostPoints);
  for (i64 i = 1; i <= points; ++i) counts.insert(i * active / points);
  return counts;
}

}  // namespace

SpecialisationProbes probe_specialisation(Model& model,
                                          std::span<const std::shared_ptr<const TokenFile>> files,
                                          const EvaluateOptions& options) {
  const ModelConfig& c = model.config;
  const bool routed = std::ranges::any_of(model.layers, [](const Block& b) { return !!b.moe; });
  if (!routed || c.topk_method == "hash") {
    throw ConfigError({.key = routed ? "model.topk_method" : "model.n_routed_experts",
                       .what = "no router with scores, so no expert that it prefers",
                       .hint = "the probes take models of any other router"});
  }
  SpecialisationProbes out{
      .routed = c.n_routed_experts, .active = c.num_experts_per_tok, .shared = c.n_shared_experts};
  const auto measure = [&](i64 experts, i64 passed_over, i64 active, bool shared) {
    const Changed changed(model, passed_over, active, shared);
    const EvalMetrics m = evaluate(model, files, options);
    return ProbePoint{experts, m.bits_per_byte, m.standard_error, m.loss};
  };
  out.whole = measure(0, 0, out.active, true);
  for (const i64 n : counts_to_pass_over(out.routed, out.active)) {
    out.passed_over.push_back(measure(n, n, out.active, true));
  }
  if (out.shared > 0 && out.active < out.routed) {
    out.without_shared = measure(out.active + 1, 0, out.active + 1, false);
  }
  for (const i64 n : counts_to_activate(out.active)) {
    out.active_experts.push_back(n == out.active ? out.whole : measure(n, 0, n, true));
    out.active_experts.back().experts = n;
  }
  return out;
}

}  // namespace quern
