// SPDX-License-Identifier: MIT
// A few steps of AdamW with clipping against the file's losses, norms and final weights.
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "quern/autograd/ops/elementwise.h"
#include "quern/optim/adamw.h"
#include "quern/optim/grad_clip.h"
#include "tests/golden/check.h"

namespace quern::golden {
namespace {

struct Training {
  AdamWOptions adamw;
  double lr = 0, max_norm = 0;
  std::set<std::string> not_decayed;
};

// Throws ConfigError where the run is of another kind, and nlohmann's errors on broken text.
Training training_of(const GoldenFile& golden) {
  const auto json = nlohmann::json::parse(golden.file.attribute_text("/", "optimizer_json"));
  const auto expect = [&](const char* key, const std::string& value) {
    if (json.at(key) != value) {
      throw ConfigError({.key = std::string("optimizer_json.") + key,
                         .expected = value,
                         .actual = json.at(key).dump()});
    }
  };
  expect("type", "torch.optim.AdamW");
  expect("lr_schedule", "constant");
  Training t;
  t.adamw = {.beta1 = json.at("betas").at(0),
             .beta2 = json.at("betas").at(1),
             .eps = json.at("eps"),
             .weight_decay = json.at("weight_decay")};
  t.lr = json.at("lr");
  t.max_norm = json.at("clip_grad_norm");
  t.not_decayed = nlohmann::json::parse(golden.file.attribute_text("/", "no_decay_params_json"))
                      .get<std::set<std::string>>();
  return t;
}

// What a run reports of its steps.
struct Curves {
  Tensor loss, aux_loss, norm;  // [steps], [steps, moe layers], [steps]
};

Curves train(Model& model, const Training& training, const Tensor& batches, const Layout& layout) {
  const i64 steps = batches.dim(0), batch = batches.dim(1), seq = batches.dim(2);
  i64 moe_layers = 0;
  for (const Block& layer : model.layers) moe_layers += layer.moe.has_value();
  const Curves curves{Tensor::empty({steps}, DType::f64),
                      Tensor::empty({steps, moe_layers}, DType::f64),
                      Tensor::empty({steps}, DType::f64)};
  const std::vector<Parameter*> parameters = parameters_of(model);
  AdamW optimizer(training.adamw, parameters,
                  [&](const Parameter& p) { return !training.not_decayed.contains(p.name); });
  for (i64 s = 0; s < steps; ++s) {
    for (Parameter* p : parameters) p->clear_grad();
    for (Parameter* p : model.for_other_ranks()) p->clear_grad();
    const Tensor ids = layout.turn(batches.rows(s, s + 1).reshape({batch, seq}));
    Tape tape;
    const Losses l = losses(tape, model, ids, ids, false);
    tape.backward(ops::scale(tape, l.total, layout.share()));
    layout.sum_gradients(model);
    const double norm = layout.norm(squared_norms(parameters), parameters);
    optimizer.step(training.lr, clip_scale(norm, training.max_norm));
    curves.loss.data<double>()[s] = l.cross_entropy.item();
    curves.norm.data<double>()[s] = norm;
    for (i64 m = 0; m < moe_layers; ++m) {
      curves.aux_loss.data<double>()[s * moe_layers + m] = l.out.router[size_t(m)].aux_loss;
    }
  }
  return curves;
}

double norm_of_difference(const Tensor& a, const Tensor& b) {
  double squares = 0;
  for (i64 i = 0; i < a.numel(); ++i) {
    const double d = a.data<double>()[i] - b.data<double>()[i];
    squares += d * d;
  }
  return std::sqrt(squares);
}

void check_final_weights(const GoldenFile& golden, const std::vector<Parameter*>& parameters,
                         DType dtype, const Layout& layout, Report& report) {
  const std::vector<std::string> names = layout.everywhere(names_of(parameters));
  if (!check_names(golden, "final_weights_f64", names, report)) return;
  Summary values(report), updates(report);
  for (const Parameter* p : parameters) {
    const Tensor ours = p->value.cast(DType::f64);
    const Tensor start = golden.file.read("weights/" + p->name).cast(DType::f64);
    const Tensor theirs = golden.reference("final_weights/" + p->name).cast(DType::f64);
    if (theirs.shape() != ours.shape()) {
      report.failure("final_weights/" + p->name,
                     "expected " + ours.shape().str() + ", got " + theirs.shape().str());
      continue;
    }
    values.add("final_weights/" + p->name,
               compare(ours, theirs, bound_for(dtype, kFinalWeightBound)));
    const double error = norm_of_difference(ours, theirs);
    updates.add("update/" + p->name,
                {error == 0 ? 0 : error / norm_of_difference(theirs, start), kUpdateTolerance});
  }
  values.print("final_weights");
  if (dtype == DType::f32) updates.print("update 2-norm");
}

}  // namespace

void check_training(const GoldenFile& golden, const ModelConfig& config, DType dtype,
                    Report& report, const Layout& layout) {
  Model model(config, dtype, layout.ep());
  if (!load_weights(golden, model, layout, report)) return;
  const Training training = training_of(golden);
  const Curves curves = train(model, training, golden.integers("batches"), layout);
  compare_with(golden, "step_loss", curves.loss.cast(dtype), kStepLossBound, report);
  compare_with(golden, "step_aux_loss", curves.aux_loss.cast(dtype), kAuxLossBound, report);
  compare_with(golden, "step_grad_norm", curves.norm.cast(dtype), kNormBound, report);
  check_final_weights(golden, parameters_of(model), dtype, layout, report);
}

}  // namespace quern::golden
