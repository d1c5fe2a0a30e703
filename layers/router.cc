// SPDX-License-Identifier: MIT
#include "quern/layers/router.h"

#include <cmath>
#include <numeric>

#include "quern/autograd/kernels/parallel.h"
#include "quern/autograd/ops/elementwise.h"
#include "quern/autograd/ops/norm.h"
#include "quern/autograd/random.h"

namespace quern {
namespace {

constexpr i64 kRowChunk = 64;

double mean_entropy(const Tensor& scores) {
  double sum = 0;
  for_float_type(scores, [&]<class T>() {
    const i64 tokens = scores.dim(0), experts = scores.dim(1);
    std::vector<double> entropy(static_cast<size_t>(tokens));
    parallel_chunks(tokens, kRowChunk, [&](i64 begin, i64 end) {
      for (i64 t = begin; t < end; ++t) {
        const T* s = scores.data<T>() + t * experts;
        const double total = double(std::accumulate(s, s + experts, T(0)));
        for (i64 e = 0; e < experts; ++e) {
          const double p = double(s[e]) / total;
          if (p > 0) entropy[size_t(t)] -= p * std::log(p);
        }
      }
    });
    sum = std::accumulate(entropy.begin(), entropy.end(), 0.0) / double(tokens);
  });
  return sum;
}

double total(const Tensor& t) {
  double sum = 0;
  for_float_type(t, [&]<class T>() {
    for (const T x : t.span<T>()) sum += double(x);
  });
  return sum;
}

}  // namespace

void RouterFigures::add(double share, const RouterFigures& other) {
  gate_entropy += share * other.gate_entropy;
  weight_sum += share * other.weight_sum;
  devices += share * other.devices;
  expert_loss += share * other.expert_loss;
  device_loss += share * other.device_loss;
  communication_loss += share * other.communication_loss;
  z_loss += share * other.z_loss;
}

Router::Router(const ModelConfig& c, const std::string& name, DType dtype)
    : name(name),
      noaux_tc(c.topk_method == "noaux_tc"),
      choice{.top_k = c.num_experts_per_tok,
             .n_group = c.topk_method == "greedy" ? 1 : c.n_group,
             .topk_group = c.topk_method == "greedy" ? 1 : c.topk_group},
      normalise(c.norm_topk_prob && (noaux_tc || c.num_experts_per_tok > 1)),
      seq_aux(c.seq_aux),
      counts_whole_step(c.balance_scope == "global_running"),
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
      gate(name, c.hidden_size, c.n_routed_experts, ParamKind::router, dtype) {
  if (!noaux_tc) return;
  choice.group_score = ops::GroupScore::sum_of_two_best;
  choice.bias = Tensor::zeros({c.n_routed_experts}, dtype);
}

Routing Router::route(Tape& tape, const Var& x, const RoutingContext& context) const {
  const Var logits = gate.forward(tape, jittered(tape, x, context));  // [tokens, experts]
  const Var scores =                                                  // [tokens, experts]
      noaux_tc ? ops::sigmoid(tape, logits) : ops::softmax(tape, logits);
  const Tensor ids = ops::top_k_columns(scores.value(), choice);
  Routing out{ids, ops::gate_weights(tape, scores, ids, normalise, scaling), {}, {}};
  RouterStats& stats = out.stats;
  stats.logits = logits.value();
  stats.expert_ids = ids;
  stats.weights = out.weights.value();
  out.aux_loss = balance_loss(tape, scores, context, stats);
  if (z_loss_coef > 0) {
    const Var z = ops::router_z_loss(tape, logits);  // scalar
    out.aux_loss = ops::add(tape, out.aux_loss, ops::scale(tape, z, z_loss_coef));
    stats.figures.z_loss = z.item();
  }
  stats.aux_loss = out.aux_loss.item();
  if (!context.step) return out;
  const double tokens = double(x.dim(0));
  const ops::ChoiceCounts sent = ops::count_choices(ids, scores.dim(1), balance.devices);
  stats.figures.devices =
      double(std::accumulate(sent.sent.begin(), sent.sent.end(), i64{0})) / tokens;
  stats.figures.weight_sum = total(stats.weights) / tokens;
  stats.figures.gate_entropy = mean_entropy(scores.value());
  return out;
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
    if (context.step && context.step->counted.tokens > 0) rule.counted.add(context.step->counted);
  }
  const ops::BalanceLoss out = ops::balance_loss(tape, shares, ids, rule);
  stats.figures.expert_loss = out.expert;
  stats.figures.device_loss = out.device;
  stats.figures.communication_loss = out.communication;
  return out.loss;
}

void Router::update_bias(const std::vector<i64>& load) {
  if (!noaux_tc) return;
  const i64 total = std::accumulate(load.begin(), load.end(), i64{0}), experts = i64(load.size());
  for_float_type(choice.bias, [&]<class T>() {
    for (i64 e = 0; e < experts; ++e) {
      const i64 missing = total - load[size_t(e)] * experts;  // the sign of mean - load
      const int sign = (missing > 0) - (missing < 0);
      choice.bias.data<T>()[e] += T(bias_update_rate * sign);
    }
  });
}

void Router::visit_buffers(const TensorVisitor& visitor) {
  if (noaux_tc) visitor(name + ".e_score_correction_bias", choice.bias);
}

}  // namespace quern
