// SPDX-License-Identifier: MIT
#include "quern/layers/moe.h"

#include <numeric>

#include "quern/autograd/ops/elementwise.h"
#include "quern/autograd/ops/norm.h"

namespace quern {

Moe::Moe(const ModelConfig& c, const std::string& name, DType dtype)
    : name(name),
      noaux_tc(c.topk_method == "noaux_tc"),
      choice{.top_k = c.num_experts_per_tok,
             .n_group = c.topk_method == "greedy" ? 1 : c.n_group,
             .topk_group = c.topk_method == "greedy" ? 1 : c.topk_group},
      normalise(c.norm_topk_prob && (noaux_tc || c.num_experts_per_tok > 1)),
      seq_aux(c.seq_aux),
      // The published V2 code does not scale weights that it normalises; that of V3 does.
      scaling(normalise && !noaux_tc ? 1.0 : c.routed_scaling_factor),
      bias_update_rate(c.router_bias_update_rate),
      balance{.expert_alpha = c.aux_loss_alpha,
              .device_alpha = c.device_aux_loss_alpha,
              .communication_alpha = c.communication_aux_loss_alpha,
              .devices = c.n_group,
              .device_limit = c.topk_group},
      gate(name + ".gate", c.hidden_size, c.n_routed_experts, ParamKind::router, dtype),
      gate_up(name + ".experts.gate_up",
              {c.n_routed_experts, 2 * c.moe_intermediate_size, c.hidden_size},
              ParamKind::routed_expert, dtype),
      down(name + ".experts.down", {c.n_routed_experts, c.hidden_size, c.moe_intermediate_size},
           ParamKind::routed_expert, dtype),
      dispatcher(c.n_routed_experts) {
  if (noaux_tc) {
    choice.group_score = ops::GroupScore::sum_of_two_best;
    choice.bias = Tensor::zeros({c.n_routed_experts}, dtype);
  }
  const i64 width = c.moe_intermediate_size, size = width * c.hidden_size;
  for (i64 e = 0; e < c.n_routed_experts; ++e) {
    const std::string expert = name + ".experts." + std::to_string(e);
    slices.push_back(
        gate_up.slice(expert + ".gate_proj.weight", 2 * e * size, {width, c.hidden_size}));
    slices.push_back(
        gate_up.slice(expert + ".up_proj.weight", (2 * e + 1) * size, {width, c.hidden_size}));
    slices.push_back(down.slice(expert + ".down_proj.weight", e * size, {c.hidden_size, width}));
  }
  if (c.n_shared_experts > 0) {
    shared_experts.emplace(name + ".shared_experts", c.hidden_size, c.n_shared_experts * width,
                           ParamKind::shared_expert, dtype);
  }
}

MoeOutput Moe::forward(Tape& tape, const Var& x, i64 sequences) const {
  const Tape::Scope scope(tape, name);
  const Var logits = gate.forward(tape, x);  // [tokens, experts]
  const Var scores =                         // [tokens, experts]
      noaux_tc ? ops::sigmoid(tape, logits) : ops::softmax(tape, logits);
  const Tensor ids = ops::top_k_columns(scores.value(), choice);
  const Var weights = ops::gate_weights(tape, scores, ids, normalise, scaling);  // [tokens, top_k]

  const Dispatched sent = dispatcher.dispatch(tape, x, ids);  // rows: [tokens * top_k, hidden]
  const Var gate_and_up =
      ops::grouped_linear(tape, sent.rows, tape.parameter(gate_up), sent.offsets);
  const Var inner = ops::swiglu(tape, gate_and_up);  // [tokens * top_k, width]
  const Var rows = ops::grouped_linear(tape, inner, tape.parameter(down), sent.offsets);
  Var y = dispatcher.combine(tape, rows, weights, sent);  // [tokens, hidden]
  if (shared_experts) y = ops::add(tape, y, shared_experts->forward(tape, x));

  MoeOutput out{y, balance_loss(tape, scores, ids, seq_aux ? sequences : 1), {}};
  for (size_t e = 0; e + 1 < sent.offsets->size(); ++e) {
    out.stats.load.push_back((*sent.offsets)[e + 1] - (*sent.offsets)[e]);
  }
  out.stats.aux_loss = out.aux_loss.item();
  out.stats.logits = logits.value();
  out.stats.expert_ids = ids;
  out.stats.weights = weights.value();
  return out;
}

// V3's loss (eqs. 17-20) is taken from shares of the sigmoid scores, and counts the experts that
// would be chosen without bias and groups; V2's counts those that were.
Var Moe::balance_loss(Tape& tape, const Var& scores, const Tensor& ids, i64 sequences) const {
  ops::BalanceRule rule = balance;
  rule.sequences = sequences;
  if (!noaux_tc) return ops::balance_loss(tape, scores, ids, rule);
  const Tensor unbiased = ops::top_k_columns(scores.value(), {.top_k = choice.top_k});
  return ops::balance_loss(tape, ops::share_of_row(tape, scores), unbiased, rule);
}

void Moe::update_bias(const std::vector<i64>& load) {
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

void Moe::visit_buffers(const TensorVisitor& visitor) {
  if (noaux_tc) visitor(name + ".gate.e_score_correction_bias", choice.bias);
}

void Moe::visit(const ParamVisitor& visitor) {
  gate.visit(visitor);
  for (Parameter& p : slices) visitor(p);
  if (shared_experts) shared_experts->visit(visitor);
}

}  // namespace quern
