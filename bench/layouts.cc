// SPDX-License-Identifier: MIT
#include "bench/layouts.h"

#include <algorithm>
#include <chrono>
#include <memory>

#include "bench/median.h"
#include "quern/recipes/rank_probe.h"
#include "quern/recipes/trainer.h"

namespace quern::bench {
namespace {

constexpr i64 kSamples[] = {1, 4, 9};  // micro-batches

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// One layout's trainer, and the seconds of its steps by number of micro-batches.
struct Layout {
  i64 ep_size;
  std::unique_ptr<Trainer> trainer;
  std::vector<std::vector<double>> seconds;
};

double timed_step(Trainer& trainer, const Sampler& sampler, i64 sequences,
                  const Communicator& world) {
  const Batch batch = sampler.batch(trainer.progress().next_sample, sequences);
  world.barrier();
  const double begin = seconds_now();
  trainer.step(batch);
  double most = 0;
  const double own = seconds_now() - begin;
  for (const auto& one : world.all_gather_values(std::span<const double>(&own, 1))) {
    most = std::max(most, one[0]);
  }
  return most;
}

std::vector<Layout> layouts_of(const Recipe& recipe, const std::shared_ptr<const Sampler>& sampler,
                               const Communicator& world) {
  std::vector<Layout> all;
  for (i64 ep = 1; ep <= world.size(); ep *= 2) {
    if (world.size() % ep != 0 || recipe.model.n_routed_experts % ep != 0) continue;
    Recipe r = recipe;
    r.distributed.ep_size = ep;
    r.train.lanes = world.size();
    r.train.steps = 1000000;
    all.push_back(
        {ep, std::make_unique<Trainer>(r, sampler, StepHooks{}, ParallelGroups(world, ep)), {}});
  }
  return all;
}

}  // namespace

LayoutBench bench_layouts(const Recipe& recipe, const Communicator& world,
                          std::span<const i64> held_out, int rounds) {
  const auto sampler = make_sampler(recipe);
  const i64 unit = recipe.train.micro_batch_sequences * world.size();
  std::vector<Layout> layouts = layouts_of(recipe, sampler, world);
  RankProbe probe(recipe, sampler, world);
  NetworkTimes network;
  if (!world.alone()) network = measure_network(world);
  for (int round = -1; round < rounds; ++round) {
    round < 0 ? probe.warm_up() : probe.take(kSamples);
    for (Layout& l : layouts) {
      l.seconds.resize(held_out.size());
      for (size_t i = 0; i < held_out.size(); ++i) {
        const double seconds = timed_step(*l.trainer, *sampler, held_out[i] * unit, world);
        if (round >= 0) l.seconds[i].push_back(seconds);
      }
    }
  }
  LayoutBench bench;
  if (!world.alone()) bench.network = fit_network(network);
  const ComputeCost compute = probe.cost();
  for (const Layout& l : layouts) {
    for (size_t i = 0; i < held_out.size(); ++i) {
      const RankLayout layout{world.size(), l.ep_size};
      const StepPrediction p = predict_step(recipe, layout, held_out[i], compute, bench.network);
      bench.points.push_back({layout,
                              held_out[i] * unit / world.size() * recipe.data.sequence_length,
                              p.seconds(), median(l.seconds[i]), p.compute});
    }
  }
  return bench;
}

}  // namespace quern::bench
