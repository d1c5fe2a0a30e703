// SPDX-License-Identifier: MIT
#include "quern/layers/router.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "quern/autograd/kernels/parallel.h"
#include "quern/autograd/ops/elementwise.h"
#include "quern/autograd/ops/norm.h"
#include "quern/autograd/random.h"

namespace quern {
namespace {

constexpr i64 kRowChunk = 64;
constexpr double kExemptShare = 0.1;  // DeepSeek-V2, arXiv:2405.04434, section 2.2.4

// Of rows taken as shares of their sums. A softmax has its logits instead, with one logarithm a
// row.
template <class T>
double entropy_of(const T* scores, const T* logits, i64 experts) {
  if (logits != nullptr) {
    const i64 best = std::max_element(logits, logits + experts) - logits;
    double entropy = -std::log(double(scores[best]));
    for (i64 e = 0; e < experts; ++e)
      entropy -= double(scores[e]) * double(logits[e] - logits[best]);
    return entropy;
  }
  const double total = double(std::accumulate(scores, scores + experts, T(0)));
  double entropy = 0;
  for (i64 e = 0; e < experts; ++e) {
    const double p = double(scores[e]) / total;
    if (p > 0) entropy -= p * std::log(p);
  }
  return entropy;
}

// logits: those that scores are a softmax of, or nothing
double mean_entropy(const Tensor& scores, const Tensor& logits) {
  const i64 tokens = scores.dim(0), experts = scores.dim(1);
  std::vector<double> entropy(static_cast<size_t>(tokens));
  for_float_type(scores, [&]<class T>() {
    parallel_chunks(tokens, kRowChunk, [&](i64 begin, i64 end) {
      for (i64 t = begin; t < end; ++t) {
        const T* z = logits.defined() ? logits.data<T>() + t * experts : nullptr;
        entropy[size_t(t)] = entropy_of<T>(scores.data<T>() + t * experts, z, experts);
      }
    });
  });
  return std::accumulate(entropy.begin(), entropy.end(), 0.0) / double(tokens);
}

double total(const Tensor& t) {
  double sum = 0;
  for_float_type(t, [&]<class T>() {
    for (const T x : t.span<T>()) sum += double(x);
  });
  return sum;
}

i64 sum_of(const std::vector<i64>& counts) {
  return std::accumulate(counts.begin(), counts.end(), i64{0});
}

// Shuffles the ids, the same way for a name everywhere, and deals them out: experts have equally
// many, within one.
Tensor balanced_table(i64 vocab, i64 experts, const std::string& name) {
  const Random random(0, "hash/" + name);
  std::vector<std::pair<std::uint64_t, i64>> order;
  for (i64 id = 0; id < vocab; ++id) order.emplace_back(random.bits(std::uint64_t(id)), id);
  std::ranges::sort(order);
  const Tensor table = Tensor::empty({vocab}, DType::i32);
  for (i64 i = 0; i < vocab; ++i) table.data<i32>()[order[size_t(i)].second] = i32(i % experts);
  return table;
}

std::vector<CapacityLimit> limits_of(const ModelConfig& c) {
  using ops::CapacityOrder;
  std::vector<CapacityLimit> limits;
  if (c.capacity_factor > 0) {
    const bool by_position = c.capacity_drop == "position";
    const CapacityOrder order = by_position ? CapacityOrder::position : CapacityOrder::score;
    limits.push_back(
        {c.capacity_factor, {.bins = c.n_routed_experts, .order = order, .exempt = {}}});
  }
  if (c.device_capacity_factor > 0) {
    limits.push_back({c.device_capacity_factor,
                      {.bins = c.n_group, .order = CapacityOrder::score, .exempt = {}},
                      kExemptShare});
  }
  return limits;
}

// Tokens of the sequences that nothing is dropped of: the same in every layer.
std::vector<bool> exempt_tokens(double share, i64 tokens, const RoutingContext& context) {
  const Random random(context.step->seed, "never dropped");
  const i64 seq = tokens / context.sequences;
  std::vector<bool> exempt;
  for (i64 t = 0; t < tokens; ++t) {
    const i64 sample = context.step->first_sample + t / seq;
    exempt.push_back(random.uniform(std::uint64_t(sample)) < share);
  }
  return exempt;
}

}  // namespace

void RouterFigures::add(double share, const RouterFigures& other) {
  gate_entropy += share * other.gate_entropy;
  weight_sum += share * other.weight_sum;
  devices += share * other.devices;
  dropped += share * other.dropped;
  expert_loss += share * other.expert_loss;
  device_loss += share * other.device_loss;
  communication_loss += share * other.communication_loss;
  z_loss += share * other.z_loss;
}

Router::Router(const ModelConfig& c, const std::string& name, DType dtype)
    : name(name),
      noaux_tc(c.topk_method == "noaux_tc"),
      experts_choose(c.topk_method == "expert_choice"),
      experts(c.n_routed_experts),
      choice{.top_k = c.num_experts_per_tok},
      normalise(c.norm_topk_prob && (noaux_tc || c.num_experts_per_tok > 1)),
      seq_aux(c.seq_aux),
      counts_whole_step(c.balance_scope == "global_running" || c.balance_scope == "global_exact"),
      // The published V2 code does not scale weights that it normalises; that of V3 does.
      scaling(normalise && !noaux_tc && !c.scale_normalised_weights ? 1.0
                                                                    : c.routed_scaling_factor),
      bias_update_rate(c.router_bias_update_rate),
      z_loss_coef(c.router_z_loss_coef),
      jitter(c.router_jitter_noise),
      balance{.expert_alpha = c.aux_loss_alpha,
              .device_alpha = c.device_aux_loss_alpha,
              .communication_alpha = c.communication_aux_loss_alpha,
              .devices = c.n_group,
              .device_limit = c.topk_group,
              .counted = {}},
      limits(limits_of(c)) {
  if (c.topk_method == "hash") {
    table = balanced_table(c.vocab_size, experts, name);
    return;
  }
  gate = Linear(name, gate_width(c), experts, ParamKind::router, dtype);
  if (noaux_tc || c.topk_method == "group_limited_greedy") {
    choice.n_group = c.n_group;
    choice.topk_group = c.topk_group;
  }
  if (!noaux_tc) return;
  choice.group_score = ops::GroupScore::sum_of_two_best;
  choice.bias = Tensor::zeros({experts}, dtype);
}

Routing Router::route(Tape& tape, const Var& x, const RoutingContext& context) const {
  if (table.defined()) return route_by_table(context, sum_type(x.dtype()));
  const Var& read = context.gate_input.value().defined() ? context.gate_input : x;
  const Var logits = gate.forward(tape, jittered(tape, read, context));  // [tokens, experts]
  const Var scores =                                                     // [tokens, experts]
      noaux_tc ? ops::sigmoid(tape, logits) : ops::softmax(tape, logits);
  const Tensor ids = choose(scores.value(), context);
  Routing out;
  out.weights = ops::gate_weights(tape, scores, ids, normalise, scaling);
  out.sent = within_capacity(ids, scores.value(), context);
  out.stats.logits = logits.value();
  describe(ids, out);
  out.aux_loss = experts_choose ? Var(Tensor::zeros({}, sum_type(x.dtype())))
                                : balance_loss(tape, scores, context, out.stats);
  if (z_loss_coef > 0) {
    const Var z = ops::router_z_loss(tape, logits);  // scalar
    out.aux_loss = ops::add(tape, out.aux_loss, ops::scale(tape, z, z_loss_coef));
    out.stats.figures.z_loss = z.item();
  }
  out.stats.aux_loss = out.aux_loss.item();
  if (context.step) {
    out.stats.figures.gate_entropy =
        mean_entropy(scores.value(), noaux_tc ? Tensor() : logits.value());
  }
  return out;
}

Routing Router::route_by_table(const RoutingContext& context, DType dtype) const {
  const i64 tokens = context.token_ids.numel();
  const Tensor ids = Tensor::empty({tokens, 1}, DType::i32);
  for (i64 t = 0; t < tokens; ++t) {
    ids.data<i32>()[t] = table.data<i32>()[context.token_ids.data<i32>()[t]];
  }
  Routing out;
  out.weights = Var(Tensor::full({tokens, 1}, dtype, 1));
  out.sent = within_capacity(ids, Tensor::zeros({tokens, experts}, dtype), context);
  out.aux_loss = Var(Tensor::zeros({}, dtype));
  describe(ids, out);
  return out;
}

// Where experts choose, they do so in training alone: a token's experts would depend on later ones.
Tensor Router::choose(const Tensor& scores, const RoutingContext& context) const {
  if (passed_over > 0) return choose_among_the_rest(scores);
  if (!experts_choose || !context.step) return ops::top_k_columns(scores, choice);
  const i64 copies = scores.dim(0) * choice.top_k;
  return ops::expert_choice(scores, (copies + experts - 1) / experts);
}

// Routes as ever, once each token's best experts are out of reach (DeepSeekMoE, arXiv:2401.06066,
// section 4.5). Where too few are left in the groups that are chosen, a place stays empty.
Tensor Router::choose_among_the_rest(const Tensor& scores) const {
  const Tensor best = ops::top_k_columns(scores, {.top_k = passed_over}), rest = scores.clone();
  for_float_type(rest, [&]<class T>() {
    const auto at = [&](i64 t, i32 expert) -> T& { return rest.data<T>()[t * experts + expert]; };
    for (i64 i = 0; i < best.numel(); ++i) {
      at(i / passed_over, best.data<i32>()[i]) = -std::numeric_limits<T>::infinity();
    }
  });
  const Tensor ids = ops::top_k_columns(rest, choice);
  for_float_type(rest, [&]<class T>() {
    for (i64 i = 0; i < ids.numel(); ++i) {
      i32& expert = ids.data<i32>()[i];
      if (std::isinf(rest.data<T>()[i / choice.top_k * experts + expert])) expert = -1;
    }
  });
  return ids;
}

// What finds room, in training.
Tensor Router::within_capacity(const Tensor& ids, const Tensor& scores,
                               const RoutingContext& context) const {
  Tensor kept = ids;
  if (!context.step) return kept;
  for (const CapacityLimit& limit : limits) {
    ops::CapacityRule rule = limit.rule;
    const double even_share = double(ids.numel()) / double(rule.bins);
    rule.capacity = std::max<i64>(1, i64(std::ceil(even_share * limit.factor)));
    if (limit.exempt_share > 0) {
      rule.exempt = exempt_tokens(limit.exempt_share, ids.dim(0), context);
    }
    kept = ops::within_capacity(kept, scores, rule);
  }
  return kept;
}

// Fills what statistics say of choices and weights.
void Router::describe(const Tensor& ids, Routing& routing) const {
  RouterStats& stats = routing.stats;
  const double tokens = double(ids.dim(0));
  const ops::ChoiceCounts counts = ops::count_choices(ids, experts, balance.devices);
  const i64 chosen = sum_of(counts.chosen);
  stats.load = counts.chosen;
  stats.expert_ids = ids;
  stats.weights = routing.weights.value();
  stats.figures.devices = double(sum_of(counts.sent)) / tokens;
  stats.figures.weight_sum = total(stats.weights) / tokens;
  const i64 sent =
      i64(std::ranges::count_if(routing.sent.span<i32>(), [](i32 e) { return e >= 0; }));
  stats.figures.dropped = double(chosen - sent) / double(chosen);
}

// Input times uniform noise around 1 (Switch Transformers, arXiv:2101.03961, section 2.2), which
// depends on the seed, the sample, its position and the layer alone.
Var Router::jittered(Tape& tape, const Var& x, const RoutingContext& context) const {
  if (jitter == 0 || !context.step) return x;
  const Random random(context.step->seed, "jitter/" + name);
  const i64 tokens = x.dim(0), width = x.dim(1);
  const i64 first = context.step->first_sample * (tokens / context.sequences) * width;
  const DType dtype = sum_type(x.dtype());
  const Tensor noise = Tensor::empty({tokens, width}, dtype);
  for_float_type(noise, [&]<class T>() {
    parallel_chunks(noise.numel(), kRowChunk * 64, [&](i64 begin, i64 end) {
      for (i64 i = begin; i < end; ++i) {
        const double u = random.uniform(std::uint64_t(first + i));
        noise.data<T>()[i] = T(1 + jitter * (2 * u - 1));
      }
    });
  });
  return ops::mul(tape, ops::cast(tape, x, dtype), Var(noise));
}

// V3's loss (eqs. 17-20) is taken from shares of the sigmoid scores, and counts the experts that
// would be chosen without bias and groups; V2's counts those that were.
Var Router::balance_loss(Tape& tape, const Var& scores, const RoutingContext& context,
                         RouterStats& stats) const {
  const Var shares = noaux_tc ? ops::share_of_row(tape, scores) : scores;
  const Tensor ids =
      noaux_tc ? ops::top_k_columns(scores.value(), {.top_k = choice.top_k}) : stats.expert_ids;
  ops::BalanceRule rule = balance;
  rule.sequences = seq_aux && !counts_whole_step ? context.sequences : 1;
  if (counts_whole_step) {
    stats.counted = rule.counted = ops::count_choices(ids, scores.dim(1), balance.devices);
    if (context.step && context.step->counted.tokens > 0) {
      if (context.step->whole_step_known) rule.counted = {};
      rule.counted.add(context.step->counted);
    }
  }
  const ops::BalanceLoss out = ops::balance_loss(tape, shares, ids, rule);
  stats.figures.expert_loss = out.expert;
  stats.figures.device_loss = out.device;
  stats.figures.communication_loss = out.communication;
  return out.loss;
}

void Router::update_bias(const std::vector<i64>& load) {
  if (!noaux_tc || !gate.weight.trainable) return;
  const i64 total = sum_of(load);
  for_float_type(choice.bias, [&]<class T>() {
    for (i64 e = 0; e < experts; ++e) {
      const i64 missing = total - load[size_t(e)] * experts;  // the sign of mean - load
      const int sign = (missing > 0) - (missing < 0);
      choice.bias.data<T>()[e] += T(bias_update_rate * sign);
    }
  });
}

void Router::visit(const ParamVisitor& visitor) {
  if (!table.defined()) gate.visit(visitor);
}

void Router::visit_buffers(const TensorVisitor& visitor) {
  if (noaux_tc) visitor(name + ".e_score_correction_bias", choice.bias);
}

}  // namespace quern
