// SPDX-License-Identifier: MIT
#include "quern/layers/moe.h"

#include "quern/autograd/ops/elementwise.h"
#include "quern/autograd/ops/expert_ffn.h"

namespace quern {

Moe::Moe(const ModelConfig& c, const std::string& name, DType dtype)
    : name(name),
      dtype(dtype),
      router(c, name + ".gate", sum_type(dtype)),
      gate_up(name + ".experts.gate_up",
              {c.n_routed_experts, 2 * c.moe_intermediate_size, c.hidden_size},
              ParamKind::routed_expert, dtype),
      down(name + ".experts.down", {c.n_routed_experts, c.hidden_size, c.moe_intermediate_size},
           ParamKind::routed_expert, dtype),
      dispatcher(c.n_routed_experts) {
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

MoeOutput Moe::forward(Tape& tape, const Var& x, const RoutingContext& context) const {
  const Tape::Scope scope(tape, name);
  Routing routing = router.route(tape, x, context);
  const Dispatched sent = dispatcher.dispatch(routing.sent);
  const Var w_in = tape.parameter(gate_up), w_out = tape.parameter(down);
  Var y = ops::expert_ffn(tape, x, routing.weights, w_in, w_out, sent.offsets,
                          sent.map);  // [tokens, hidden]
  if (shared_experts) y = ops::add(tape, y, shared_experts->forward(tape, x));
  return {y, routing.aux_loss, std::move(routing.stats)};
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

void Moe::visit(const ParamVisitor& visitor) {
  router.visit(visitor);
  for (Parameter& p : slices) visitor(p);
  if (shared_experts) shared_experts->visit(visitor);
}

}  // namespace quern
