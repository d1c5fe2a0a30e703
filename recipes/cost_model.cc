// SPDX-License-Identifier: MIT
#include "quern/recipes/cost_model.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "quern/recipes/finetune.h"
#include "quern/recipes/trainer.h"

namespace quern {
namespace {

constexpr double kBucketBytes = 16 << 20;  // of sum_gradients()
constexpr double kSmallCalls = 6;          // in a step: norms, losses, times, signals
constexpr double kNearlyAsFast = 1.02;
constexpr double kBackward = 0.55;  // of the time of a micro-batch: bench/README.md

i64 moe_layers(const ModelConfig& c) {
  i64 count = 0;
  const i64 layers = c.num_hidden_layers + c.num_nextn_predict_layers;
  for (i64 i = 0; i < layers; ++i) count += is_moe_layer(c, i);
  return count;
}

// The part of a token's arithmetic that so many experts of each layer do.
double share_of_experts(const Recipe& r, double experts) {
  const ModelConfig& c = r.model;
  const double of_a_token =
      3.0 * experts * double(c.moe_intermediate_size * c.hidden_size * moe_layers(c));
  return 6 * of_a_token / flops_per_token(c, r.data.sequence_length);
}

double routed_share(const Recipe& r) {
  return share_of_experts(r, double(r.model.num_experts_per_tok));
}

struct Trained {
  double everywhere = 0, routed = 0;  // numbers
};

Trained trained_of(const Recipe& r) {
  const double all = double(count_trained(r));
  const double routed = double(count_parameters(r.model).routed_experts);
  if (r.finetune.method != "full") return {all, 0};
  return {all - routed, routed};
}

double sum_seconds(double numbers, i64 ranks, const NetworkCost& network) {
  const double bytes = 4 * numbers;
  Traffic t = sum_traffic(ranks, bytes);
  t.messages *= std::max(1.0, std::ceil(bytes / kBucketBytes));
  return network.sum.seconds(t);
}

// Each tensor from one rank to all others, roots evenly spread: what one rank sends.
double broadcast_seconds(double tensors, double numbers, i64 ranks, const NetworkCost& network) {
  const double others = double(ranks - 1) / double(ranks);
  return network.exchange.seconds({tensors * others, 4 * numbers * others});
}

double weights_seconds(const Recipe& r, const RankLayout& l, const Trained& n,
                       const NetworkCost& network) {
  if (!r.distributed.shard_optimizer) return 0;
  const double layers = double(r.model.num_hidden_layers);
  const double expert_tensors =
      3.0 * double(moe_layers(r.model) * r.model.n_routed_experts / l.ep_size);
  return broadcast_seconds(3 + 12 * layers, n.everywhere, l.ranks, network) +
         broadcast_seconds(expert_tensors, n.routed / double(l.ep_size), l.ranks / l.ep_size,
                           network);
}

}  // namespace

double ComputeCost::seconds(i64 micro_batches) const {
  const double x = double(micro_batches);
  if (samples.size() == 1) return samples[0].seconds * x / double(samples[0].micro_batches);
  size_t end = 1;
  while (end + 1 < samples.size() && samples[end].micro_batches < micro_batches) ++end;
  const Sample &a = samples[end - 1], &b = samples[end];
  const double slope = (b.seconds - a.seconds) / double(b.micro_batches - a.micro_batches);
  return a.seconds + slope * (x - double(a.micro_batches));
}

double other_ranks_hit(const ModelConfig& c, i64 ep_size) {
  if (ep_size < 2 || c.n_routed_experts == 0) return 0;
  const i64 experts = c.n_routed_experts, here = experts / ep_size;
  double missed = 1;  // that none of the choices, all different, is on a given rank
  for (i64 i = 0; i < c.num_experts_per_tok; ++i) {
    missed *= std::max(0.0, double(experts - here - i) / double(experts - i));
  }
  double hit = double(ep_size) * (1 - missed);
  if (c.n_group > 1 && c.topk_group < c.n_group) {  // groups of experts are neighbours
    const double span = double(c.topk_group) * std::max(1.0, double(ep_size) / double(c.n_group));
    hit = std::min(hit, span);
  }
  return hit * double(ep_size - 1) / double(ep_size);
}

Traffic outward_traffic(const ModelConfig& c, i64 ep_size, i64 tokens, i64 operand_bytes,
                        bool recompute) {
  if (ep_size < 2 || c.n_routed_experts == 0) return {};
  const double sent = double(tokens) * other_ranks_hit(c, ep_size);
  const double x = double(operand_bytes * c.hidden_size), forwards = recompute ? 2 : 1;
  return {(3 * forwards + 1) * double(ep_size - 1),
          sent * (forwards * (x + 8 * double(c.num_experts_per_tok)) + x)};
}

Traffic expert_traffic(const ModelConfig& c, i64 ep_size, i64 tokens, i64 operand_bytes,
                       bool recompute) {
  if (ep_size < 2 || c.n_routed_experts == 0) return {};
  const Traffic outward = outward_traffic(c, ep_size, tokens, operand_bytes, recompute);
  const double others = double(ep_size - 1), top_k = double(c.num_experts_per_tok);
  const double sent = double(tokens) * other_ranks_hit(c, ep_size);
  const double rows = double(tokens) * top_k * others / double(ep_size);
  const double rows_bytes = rows * 4.0 * double(c.hidden_size);
  const double counts = 8 * others * double(1 + c.n_routed_experts / ep_size);
  const double forwards = recompute ? 2 : 1;
  return {outward.messages + (2 * forwards + 2) * others,
          outward.bytes + forwards * (counts + rows_bytes) + sent * 4 * top_k + rows_bytes};
}

double imbalance(std::span<const std::vector<i64>> expert_load, i64 ep_size) {
  double sum = 0;
  for (const std::vector<i64>& layer : expert_load) {
    std::vector<i64> of_rank(static_cast<size_t>(ep_size), 0);
    i64 all = 0;
    for (size_t e = 0; e < layer.size(); ++e) {
      of_rank[e * of_rank.size() / layer.size()] += layer[e];
      all += layer[e];
    }
    const i64 most = *std::ranges::max_element(of_rank);
    sum += all == 0 ? 1 : double(most * ep_size) / double(all);
  }
  return expert_load.empty() ? 1 : sum / double(expert_load.size());
}

StepPrediction predict_step(const Recipe& r, const RankLayout& l, i64 micro_batches,
                            const ComputeCost& compute, const NetworkCost& network) {
  const Trained n = trained_of(r);
  const i64 expert_dp = l.ranks / l.ep_size;
  const double spread = double(l.ep_size);
  const double moments = r.distributed.shard_optimizer ? (n.everywhere + n.routed) / double(l.ranks)
                                                       : n.everywhere + n.routed / spread;
  const double waiting = 1 + routed_share(r) * (imbalance(compute.expert_load, l.ep_size) - 1);
  const i64 tokens = r.train.micro_batch_sequences * r.data.sequence_length;
  const i64 operand = resolved_dtype(r.train) == "bf16" ? 2 : 4;
  const double uses = double(moe_layers(r.model) * micro_batches);
  const Traffic of_experts = expert_traffic(r.model, l.ep_size, tokens, operand, r.train.recompute);
  StepPrediction p{.layout = l, .micro_batches = micro_batches};
  p.compute = compute.seconds(micro_batches) * waiting +
              compute.optimizer_s * moments / (n.everywhere + n.routed);
  const bool apart = l.ep_size > 1;  // routed experts are summed apart, and after backward
  const double beside = sum_seconds(n.everywhere + (apart ? 0 : n.routed), l.ranks, network);
  p.gradients = beside - network.hidden * std::min(beside, kBackward * compute.seconds(1)) +
                (apart ? sum_seconds(n.routed / spread, expert_dp, network) : 0);
  const double outward = uses * network.exchange.seconds(outward_traffic(
                                    r.model, l.ep_size, tokens, operand, r.train.recompute));
  const double at_home = double(r.model.num_experts_per_tok) / spread;
  const double meanwhile = compute.seconds(micro_batches) *
                           share_of_experts(r, at_home + double(r.model.n_shared_experts));
  p.experts =
      uses * network.exchange.seconds(of_experts) - network.hidden * std::min(outward, meanwhile);
  p.weights = weights_seconds(r, l, n, network);
  if (l.ranks > 1) {
    const double rounds = double(std::bit_width(std::uint64_t(l.ranks) - 1));
    p.agreement = kSmallCalls * (network.message.seconds({rounds, 0}) +
                                 network.exchange.seconds(exchange_traffic(l.ranks, 0)));
  }
  p.memory = estimate_memory(r, count_trained(r), l).total();
  return p;
}

i64 micro_batches_of_a_rank(const Recipe& r, i64 ranks) {
  return std::max<i64>(1, r.train.batch_sequences / (ranks * r.train.micro_batch_sequences));
}

std::vector<StepPrediction> predict_layouts(const Recipe& r, std::span<const i64> ranks,
                                            const ComputeCost& compute,
                                            const NetworkCost& network) {
  std::vector<StepPrediction> all;
  const i64 experts = r.finetune.method == "full" ? r.model.n_routed_experts : 0;
  for (const i64 p : ranks) {
    for (i64 ep = 1; ep <= std::max<i64>(1, std::min(p, experts)); ++ep) {
      if (p % ep != 0 || (ep > 1 && experts % ep != 0)) continue;
      all.push_back(predict_step(r, {p, ep}, micro_batches_of_a_rank(r, p), compute, network));
    }
  }
  return all;
}

const StepPrediction* recommended(std::span<const StepPrediction> predictions, i64 memory) {
  const StepPrediction* best = nullptr;
  for (const StepPrediction& p : predictions) {
    if (p.memory > memory) continue;
    if (best == nullptr || p.seconds() < best->seconds()) best = &p;
  }
  if (best == nullptr) return nullptr;
  const StepPrediction* simplest = best;
  for (const StepPrediction& p : predictions) {
    const bool fast = p.memory <= memory && p.seconds() <= kNearlyAsFast * best->seconds();
    if (fast && p.layout.ep_size < simplest->layout.ep_size) simplest = &p;
  }
  return simplest;
}

}  // namespace quern
