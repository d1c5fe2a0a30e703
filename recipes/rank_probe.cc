// SPDX-License-Identifier: MIT
#include "quern/recipes/rank_probe.h"

#include <algorithm>
#include <chrono>

namespace quern {
namespace {

constexpr double kLongEnough = 20;  // seconds
constexpr i64 kMostMicroBatches = 8;
constexpr int kLeastRounds = 3, kMostRounds = 9;

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Recipe alone(Recipe r) {
  r.distributed = {};
  r.train.lanes = 1;
  r.train.steps = std::max<i64>(r.train.steps, r.optim.warmup_steps + 1);
  return r;
}

double middle(std::vector<double> x) {
  std::ranges::sort(x);
  return x[x.size() / 2];
}

double slowest(double own, const Communicator& ranks) {
  double most = own;
  for (const auto& one : ranks.all_gather_values(std::span<const double>(&own, 1))) {
    most = std::max(most, one[0]);
  }
  return most;
}

}  // namespace

RankProbe::RankProbe(const Recipe& recipe, std::shared_ptr<const Sampler> sampler,
                     const Communicator& ranks)
    : ranks_(ranks),
      sequences_(recipe.train.micro_batch_sequences),
      sampler_(std::move(sampler)),
      trainer_(alone(recipe), sampler_) {}

// The first step finds no memory to reuse.
void RankProbe::warm_up() { trainer_.step(sampler_->batch(0, sequences_)); }

void RankProbe::take(std::span<const i64> micro_batches) {
  for (const i64 count : micro_batches) {
    const Batch batch = sampler_->batch(trainer_.progress().next_sample, count * sequences_);
    ranks_.barrier();
    const StepReport report = trainer_.step(batch);
    auto at = std::ranges::find(differentiated_, count, &Times::micro_batches);
    if (at == differentiated_.end()) at = differentiated_.insert(at, {count, {}});
    at->seconds.push_back(slowest(report.forward_backward_s, ranks_));
    optimized_.push_back(slowest(report.optimizer_s, ranks_));
    load_.resize(report.expert_load.size());
    for (size_t layer = 0; layer < load_.size(); ++layer) {
      load_[layer].resize(report.expert_load[layer].size());
      for (size_t e = 0; e < load_[layer].size(); ++e)
        load_[layer][e] += report.expert_load[layer][e];
    }
  }
}

ComputeCost RankProbe::cost() const {
  ComputeCost cost{.samples = {}, .optimizer_s = middle(optimized_), .expert_load = load_};
  for (const Times& t : differentiated_)
    cost.samples.push_back({t.micro_batches, middle(t.seconds)});
  std::ranges::sort(cost.samples, {}, &ComputeCost::Sample::micro_batches);
  return cost;
}

ComputeCost measure_compute(const Recipe& recipe, std::shared_ptr<const Sampler> sampler,
                            const Communicator& ranks) {
  RankProbe probe(recipe, std::move(sampler), ranks);
  std::vector<i64> sizes = {1};
  const i64 most = std::min(kMostMicroBatches, micro_batches_of_a_rank(recipe, 1));
  if (most > 1) sizes.push_back(most);
  const double begin = seconds_now();
  probe.warm_up();
  for (int round = 0; round < kMostRounds; ++round) {
    if (round >= kLeastRounds && ranks.any(seconds_now() - begin > kLongEnough)) break;
    probe.take(sizes);
  }
  return probe.cost();
}

}  // namespace quern
