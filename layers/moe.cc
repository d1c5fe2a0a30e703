// SPDX-License-Identifier: MIT
#include "quern/layers/moe.h"

#include <algorithm>

#include "quern/autograd/error.h"
#include "quern/autograd/ops/elementwise.h"
#include "quern/autograd/ops/expert_ffn.h"
#include "quern/autograd/ops/matmul.h"
#include "quern/autograd/ops/rows.h"
#include "quern/distributed/grad_sync.h"

namespace quern {

Moe::Moe(const ModelConfig& c, const std::string& name, DType dtype, const Communicator& ep)
    : name(name),
      dtype(dtype),
      router(c, name + ".gate", sum_type(dtype)),
      ep(ep),
      gate_up(name + ".experts.gate_up",
              {c.n_routed_experts / ep.size(), 2 * c.moe_intermediate_size, c.hidden_size},
              ParamKind::routed_expert, dtype),
      down(name + ".experts.down",
           {c.n_routed_experts / ep.size(), c.hidden_size, c.moe_intermediate_size},
           ParamKind::routed_expert, dtype),
      dispatcher(c.n_routed_experts),
      fp8(c.fp8_operands) {
  const i64 width = c.moe_intermediate_size, size = width * c.hidden_size;
  const i64 here = gate_up.value.dim(0), first = ep.rank() * here;
  for (i64 e = 0; e < here; ++e) {
    const std::string expert = name + ".experts." + std::to_string(first + e);
    slices.push_back(
        gate_up.slice(expert + ".gate_proj.weight", 2 * e * size, {width, c.hidden_size}));
    slices.push_back(
        gate_up.slice(expert + ".up_proj.weight", (2 * e + 1) * size, {width, c.hidden_size}));
    slices.push_back(down.slice(expert + ".down_proj.weight", e * size, {c.hidden_size, width}));
  }
  for (int r = 1; r < ep.size(); ++r) {
    for (const Parameter* p : {&gate_up, &down}) {
      Parameter& other = for_other_ranks.emplace_back(*p);
      other.grad = Tensor::like(p->grad);
      other.grad_written = std::make_shared<bool>(false);
    }
  }
  if (c.n_shared_experts > 0) {
    shared_experts.emplace(name + ".shared_experts", c.hidden_size, c.n_shared_experts * width,
                           ParamKind::shared_expert, dtype, fp8);
  }
}

MoeOutput Moe::forward(Tape& tape, const Var& x, const RoutingContext& context) const {
  const Tape::Scope scope(tape, name);
  Routing routing = router.route(tape, x, context);
  const Dispatched sent = dispatcher.dispatch(routing.sent);
  std::optional<SpreadExpertFfn> travelling;  // tokens of other ranks, beside the shared experts
  Var y;                                      // [tokens, hidden]
  if (!ep.alone()) {
    travelling = send_to_experts(tape, x, routing.weights, sent);
  } else if (has_updates() || fp8) {
    y = experts_by_products(tape, x, routing.weights, sent);
  } else {
    y = experts(tape, x, routing.weights, sent);
  }
  Var shared;
  if (shared_experts) shared = shared_experts->forward(tape, x);
  if (travelling) y = travelling->finish(tape);
  if (shared_experts) y = ops::add(tape, y, shared);
  return {y, routing.aux_loss, std::move(routing.stats)};
}

bool Moe::has_updates() const {
  return std::ranges::any_of(updates, [](const auto& u) { return u.has_value(); });
}

SpreadExpertFfn Moe::send_to_experts(Tape& tape, const Var& x, const Var& weights,
                                     const Dispatched& sent) const {
  std::vector<ExpertMatrices> matrices = {{tape.parameter(gate_up), tape.parameter(down)}};
  for (size_t i = 0; i < for_other_ranks.size(); i += 2) {
    matrices.push_back(
        {tape.parameter(for_other_ranks[i]), tape.parameter(for_other_ranks[i + 1])});
  }
  return {tape, x, weights, std::move(matrices), sent, ep};
}

// Where few experts are trained, their backward has fewer products: one more saves memory.
Var Moe::experts(Tape& tape, const Var& x, const Var& weights, const Dispatched& sent) const {
  const bool few = !gate_up.trainable || gate_up.trained != nullptr;
  const Var w_in = tape.parameter(gate_up), w_out = tape.parameter(down);
  return ops::expert_ffn(tape, x, weights, w_in, w_out, sent.offsets, sent.map,
                         few ? ops::Keep::inputs : ops::Keep::outputs);
}

// Product by product, since updates are added or operands rounded between them; and again in
// backward, since what lies between takes several times the memory of all else.
Var Moe::experts_by_products(Tape& tape, const Var& x, const Var& weights,
                             const Dispatched& sent) const {
  return recompute(tape, {x, weights},
                   [this, sent](Tape& t, std::span<const Var> in, bool) -> std::vector<Var> {
                     return {products(t, in[0], in[1], sent)};
                   })[0];
}

Var Moe::product(Tape& tape, const Var& x, Parameter& stack, i64 rows,
                 const Dispatched& sent) const {
  const Var w = tape.parameter(stack);
  return fp8 ? fp8_grouped_linear(tape, x, w, {rows, w.dim(2)}, sent.offsets)
             : ops::grouped_linear(tape, x, w, sent.offsets);
}

Var Moe::products(Tape& tape, const Var& x, const Var& weights, const Dispatched& sent) const {
  const auto with = [&](const Var& y, const Var& in, size_t matrix, i64 begin) {
    return updates[matrix] ? updates[matrix]->add_to(tape, y, in, sent.offsets, begin) : y;
  };
  const Var copies = ops::gather_rows(tape, x, sent.map);  // [copies, hidden]
  const i64 width = down.value.dim(2);
  Var both = product(tape, copies, gate_up, width, sent);
  both = with(with(both, copies, 0, 0), copies, 1, width);  // [copies, 2 * width]
  const Var inner = ops::swiglu(tape, both, dtype);         // [copies, width]
  Var rows = product(tape, inner, down, down.value.dim(1), sent);
  rows = with(rows, inner, 2, 0);  // [copies, hidden]
  return ops::combine_rows(tape, rows, weights, sent.map);
}

void Moe::stack_updates() {
  for (size_t matrix = 0; matrix < updates.size(); ++matrix) {
    std::vector<Parameter*> experts;
    for (size_t i = matrix; i < slices.size(); i += 3) {
      if (slices[i].update) experts.push_back(&slices[i]);
    }
    if (experts.empty()) continue;
    if (3 * experts.size() != slices.size()) {
      throw ConfigError({.key = "finetune.lora_targets",
                         .what = experts[0]->name + " is one, and other experts' are not",
                         .hint = "target a matrix of all experts of a layer, or of none"});
    }
    updates[matrix].emplace(experts);
  }
}

void Moe::hold_gradients() {
  std::vector<i64> both, last;  // experts whose gate_up, and whose down, are trained
  for (i64 e = 0; e < gate_up.value.dim(0); ++e) {
    const Parameter* of = &slices[size_t(3 * e)];
    refuse_a_half(of[0], of[1]);
    if (of[0].trainable) both.push_back(e);
    if (of[2].trainable) last.push_back(e);
  }
  if (shared_experts) shared_experts->hold_gradients();
  for (Parameter& slice : slices) slice.grad = {};
  gate_up.train_matrices(both);
  down.train_matrices(last);
  const Shape in = slices[0].value.shape(), out = slices[2].value.shape();
  for (size_t i = 0; i < both.size(); ++i) {
    Parameter* of = &slices[size_t(3 * both[i])];
    of[0].grad = gate_up.grad.view(i64(2 * i) * in.numel(), in);
    of[1].grad = gate_up.grad.view(i64(2 * i + 1) * in.numel(), in);
  }
  for (size_t i = 0; i < last.size(); ++i) {
    slices[size_t(3 * last[i] + 2)].grad = down.grad.view(i64(i) * out.numel(), out);
  }
}

void Moe::sum_over_senders() {
  for (size_t matrix = 0; matrix < 2; ++matrix) {
    std::vector<Parameter*> by_rank = {matrix == 0 ? &gate_up : &down};
    for (size_t i = matrix; i < for_other_ranks.size(); i += 2) {
      by_rank.push_back(&for_other_ranks[i]);
    }
    sum_into_first(by_rank);
  }
}

void Moe::visit(const ParamVisitor& visitor) {
  router.visit(visitor);
  for (Parameter& p : slices) visitor(p);
  if (shared_experts) shared_experts->visit(visitor);
}

}  // namespace quern
