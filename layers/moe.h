// SPDX-License-Identifier: MIT
// The DeepSeekMoE layer: fine-grained routed experts beside shared ones.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "quern/autograd/ops/routing.h"
#include "quern/distributed/token_dispatcher.h"
#include "quern/layers/config.h"
#include "quern/layers/mlp.h"

namespace quern {

// A tensor of the state that a checkpoint holds, by its name there: a parameter or not.
using TensorVisitor = std::function<void(const std::string& name, const Tensor& value)>;

// What the router of one layer did with a batch.
struct RouterStats {
  std::vector<i64> load;  // tokens sent to each expert
  double aux_loss = 0;    // the layer's share of the auxiliary loss
  Tensor logits;          // [tokens, experts]
  Tensor expert_ids;      // i32 [tokens, top_k]
  Tensor weights;         // [tokens, top_k]
};

struct MoeOutput {
  Var y;         // [tokens, hidden]
  Var aux_loss;  // scalar, all balance losses times their alphas: the mean over the sequences
  RouterStats stats;
};

// y = sum of shared experts + sum over the chosen of weight * expert(x)
// (DeepSeekMoE, arXiv:2401.06066, eqs. 9-11; DeepSeek-V2, arXiv:2405.04434, eqs. 20-25).
// With noaux_tc the router is that of DeepSeek-V3 (arXiv:2412.19437, eqs. 12-20): sigmoid scores, a
// bias that steers the choice alone and is no parameter, weights normalised and then scaled.
// Local experts' weights are stacked for the grouped products and visited by global index.
struct Moe {
  Moe(const ModelConfig& config, const std::string& name, DType dtype);

  // x: [tokens, hidden], tokens = sequences * seq
  MoeOutput forward(Tape& tape, const Var& x, i64 sequences) const;
  void visit(const ParamVisitor& visitor);
  void visit_buffers(const TensorVisitor& visitor);

  // Once after each step of the optimizer, with the tokens that the step sent to each expert.
  void update_bias(const std::vector<i64>& load);

  std::string name;
  bool noaux_tc;
  ops::ChoiceRule choice;
  bool normalise, seq_aux;
  double scaling, bias_update_rate;
  ops::BalanceRule balance;
  Linear gate;                        // hidden -> experts, without bias
  mutable Parameter gate_up;          // [experts, 2 * width, hidden]
  mutable Parameter down;             // [experts, hidden, width]
  std::vector<Parameter> slices;      // gate_proj, up_proj, down_proj of every expert
  std::optional<Mlp> shared_experts;  // one network as wide as all of them
  TokenDispatcher dispatcher;

 private:
  Var balance_loss(Tape& tape, const Var& scores, const Tensor& ids, i64 sequences) const;
};

}  // namespace quern
