// SPDX-License-Identifier: MIT
// Chooses the experts of each token, weighs them, and says what balance costs.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "quern/autograd/ops/balance_loss.h"
#include "quern/autograd/ops/capacity.h"
#include "quern/autograd/ops/routing.h"
#include "quern/layers/config.h"
#include "quern/layers/linear.h"

namespace quern {

// A tensor of the state that a checkpoint holds, by its name there: a parameter or not.
using TensorVisitor = std::function<void(const std::string& name, const Tensor& value)>;

// What one router has to know of the training step that a batch belongs to.
struct RouterStep {
  std::uint64_t seed = 0;
  i64 first_sample = 0;  // of the batch, among all of the run
  // By this router in the batches of this step before this one; or, where the whole step is known,
  // in all of them.
  ops::ChoiceCounts counted;
  bool whole_step_known = false;
};

// What a router has to know of a batch besides its hidden states.
struct RoutingContext {
  i64 sequences = 1;  // equal runs of rows
  Tensor token_ids;   // i32 [tokens]; the hash router alone needs them
  Var gate_input;     // [tokens, gate_width]: what the gate reads in place of x, or nothing
  std::optional<RouterStep> step;  // in training only: what is for training alone needs it
};

// Means over the tokens of a batch.
struct RouterFigures {
  double gate_entropy = 0;  // of the scores, each row taken as shares of its sum; nats
  double weight_sum = 0;    // of a token's chosen experts
  double devices = 0;       // holding a chosen expert
  double dropped = 0;       // of a token's copies, the share that found no room
  double expert_loss = 0, device_loss = 0, communication_loss = 0, z_loss = 0;  // without alphas

  void add(double share, const RouterFigures& other);
};

// What the router of one layer did with a batch.
struct RouterStats {
  std::vector<i64> load;  // tokens that each expert was chosen for, dropped copies among them
  double aux_loss = 0;    // the layer's share of the auxiliary loss
  RouterFigures figures;
  ops::ChoiceCounts counted;  // what its balance loss counts, of this batch
  Tensor logits;              // [tokens, experts]
  Tensor expert_ids;          // i32 [tokens, top_k]; -1: none
  Tensor weights;             // [tokens, top_k]
};

// Room for a multiple of an even share of the copies, in training.
struct CapacityLimit {
  double factor = 1;
  ops::CapacityRule rule;   // all but what depends on the batch
  double exempt_share = 0;  // of sequences that nothing is dropped of
};

struct Routing {
  Tensor sent;   // i32 [tokens, top_k], the experts that copies go to; -1: to none
  Var weights;   // [tokens, top_k]
  Var aux_loss;  // scalar, all losses times their alphas: the mean over the sequences
  RouterStats stats;
};

// DeepSeekMoE, arXiv:2401.06066, eqs. 9-11; DeepSeek-V2, arXiv:2405.04434, eqs. 20-31. With
// noaux_tc the router is that of DeepSeek-V3 (arXiv:2412.19437, eqs. 12-20): sigmoid scores, a bias
// that steers the choice alone and is no parameter, weights normalised and then scaled. The hash
// router has no scores and no parameters.
struct Router {
  Router(const ModelConfig& config, const std::string& name, DType dtype);

  // x: [tokens, hidden], tokens = sequences * seq
  Routing route(Tape& tape, const Var& x, const RoutingContext& context) const;
  void visit(const ParamVisitor& visitor);
  void visit_buffers(const TensorVisitor& visitor);

  // Once after each step of the optimizer, with the tokens that the step sent to each expert.
  void update_bias(const std::vector<i64>& load);

  std::string name;
  bool noaux_tc, experts_choose;
  i64 experts;
  ops::ChoiceRule choice;
  bool normalise, seq_aux, counts_whole_step;
  double scaling, bias_update_rate, z_loss_coef, jitter;
  ops::BalanceRule balance;
  std::vector<CapacityLimit> limits;  // one after the other
  Linear gate;                        // hidden -> experts, without bias
  i64 passed_over = 0;  // of each token's experts of highest score; a probe of what they are worth
  Tensor table;         // i32 [vocab], the expert of each token id; of the hash router alone

 private:
  Routing route_by_table(const RoutingContext& context, DType dtype) const;
  Tensor choose(const Tensor& scores, const RoutingContext& context) const;
  Tensor choose_among_the_rest(const Tensor& scores) const;
  Tensor within_capacity(const Tensor& ids, const Tensor& scores,
                         const RoutingContext& context) const;
  void describe(const Tensor& ids, Routing& routing) const;
  Var jittered(Tape& tape, const Var& x, const RoutingContext& context) const;
  Var balance_loss(Tape& tape, const Var& scores, const RoutingContext& context,
                   RouterStats& stats) const;
};

}  // namespace quern
