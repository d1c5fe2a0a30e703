// SPDX-License-Identifier: MIT
// Whole models of several kinds, and what a training step of one leaves behind.
#pragma once

#include <vector>

#include "tests/support/toy_model.h"

namespace quern::testing {

inline ModelConfig tied(ModelConfig c) {
  c.tie_word_embeddings = true;
  return c;
}

inline std::vector<ModelConfig> several_configs() {
  return {toy_config(),
          with_q_lora(with_yarn(toy_config())),
          normalised(group_limited(toy_config())),
          tied(with_q_lora(toy_config())),
          noaux_tc(toy_config()),
          with_attention(toy_config(), "mha"),
          with_attention(with_yarn(toy_config()), "gqa"),
          with_attention(toy_config(), "mqa")};
}

inline Model random_model(const ModelConfig& config, DType dtype = DType::f64, double std = 0.3) {
  Model model(config, dtype);
  randomise(model, std);
  return model;
}

// Cross entropy against fixed random labels, summed over tokens and scaled, plus the aux loss.
inline Var loss_of(Tape& tape, const Model& model, const ModelOutput& out, const Tensor& labels,
                   double scale, double aux_scale = 1) {
  const Var nll =
      ops::linear_cross_entropy(tape, out.hidden, tape.parameter(model.head()), labels, scale).loss;
  return ops::add(tape, nll, ops::scale(tape, out.aux_loss, aux_scale));
}

// What a step leaves behind: loss, gradients in the order of visit, and the routers' counts.
struct Step {
  Tensor loss;
  std::vector<Tensor> gradients;
  std::vector<std::vector<i64>> loads;
};

inline Step step_of(Model& model, const Tensor& ids, const ForwardOptions& options = {}) {
  const Tensor labels = random_ids({ids.numel()}, model.config.vocab_size, 2);
  Step step;
  for (Parameter* p : parameters_of(model)) p->clear_grad();
  Tape tape;
  const ModelOutput out = model.forward(tape, ids, {}, options);
  const Var loss = loss_of(tape, model, out, labels, 1.0 / double(ids.numel()));
  tape.backward(loss);
  step.loss = loss.value();
  for (Parameter* p : parameters_of(model)) {
    p->settle_grad();
    step.gradients.push_back(p->grad.clone());
  }
  for (const RouterStats& r : out.router) step.loads.push_back(r.load);
  return step;
}

}  // namespace quern::testing
