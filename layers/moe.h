// SPDX-License-Identifier: MIT
// The DeepSeekMoE layer: fine-grained routed experts beside shared ones.
#pragma once

#include <array>
#include <optional>
#include <vector>

#include "quern/distributed/spread_experts.h"
#include "quern/layers/mlp.h"
#include "quern/layers/router.h"

namespace quern {

struct MoeOutput {
  Var y;         // [tokens, hidden]
  Var aux_loss;  // scalar, all losses of the router times their alphas
  RouterStats stats;
};

// y = sum of shared experts + sum over the chosen of weight * expert(x)
// (DeepSeekMoE, arXiv:2401.06066, eq. 9; DeepSeek-V2, arXiv:2405.04434, eq. 20).
// Local experts' weights are stacked for the grouped products and visited by global index.
struct Moe {
  // Of the experts, those of this rank of `ep` alone: an equal share, by global number.
  Moe(const ModelConfig& config, const std::string& name, DType dtype, const Communicator& ep = {});

  // x: [tokens, hidden], tokens = sequences * seq
  MoeOutput forward(Tape& tape, const Var& x, const RoutingContext& context) const;
  void visit(const ParamVisitor& visitor);
  // Adds the gradients for_other_ranks to those of gate_up and down, as lanes are added.
  void sum_over_senders();
  // After slices have got updates. Throws ConfigError where some experts of a matrix have none.
  void stack_updates();
  // After `trainable` of slices has changed: the stacks hold the gradients of the trained experts
  // alone. Throws ConfigError where an expert's gate_proj and up_proj, one matrix, differ.
  void hold_gradients();

  std::string name;
  DType dtype;
  Router router;  // its parameters are called gate
  Communicator ep;
  mutable Parameter gate_up;      // [experts here, 2 * width, hidden]
  mutable Parameter down;         // [experts here, hidden, width]
  std::vector<Parameter> slices;  // gate_proj, up_proj, down_proj of every expert here
  // gate_up and down again, with gradients of their own for the tokens of each other rank of `ep`,
  // from the second on; the first one's are those above.
  mutable std::vector<Parameter> for_other_ranks;
  std::array<std::optional<LowRankStack>, 3> updates;  // of gate_proj, up_proj, down_proj
  std::optional<Mlp> shared_experts;                   // one network as wide as all of them
  TokenDispatcher dispatcher;
  bool fp8;  // see fp8.h

 private:
  bool has_updates() const;
  SpreadExpertFfn send_to_experts(Tape& tape, const Var& x, const Var& weights,
                                  const Dispatched& sent) const;
  Var experts(Tape& tape, const Var& x, const Var& weights, const Dispatched& sent) const;
  Var experts_by_products(Tape& tape, const Var& x, const Var& weights,
                          const Dispatched& sent) const;
  Var product(Tape& tape, const Var& x, Parameter& stack, i64 rows, const Dispatched& sent) const;
  Var products(Tape& tape, const Var& x, const Var& weights, const Dispatched& sent) const;
};

}  // namespace quern
