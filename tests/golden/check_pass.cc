// SPDX-License-Identifier: MIT
// One forward and backward pass against the file's values.
#include <algorithm>
#include <cmath>
#include <limits>

#include "quern/autograd/ops/elementwise.h"
#include "quern/autograd/ops/loss.h"
#include "quern/autograd/ops/matmul.h"
#include "quern/optim/chunks.h"
#include "quern/optim/grad_clip.h"
#include "tests/golden/check.h"

namespace quern::golden {
namespace {

// Quantities of which the README promises no double-precision values.
void compare_trace(const GoldenFile& golden, const std::string& quantity, const Tensor& ours,
                   Report& report) {
  if (ours.dtype() == DType::f64 && !golden.has_f64(quantity)) return;
  compare_with(golden, quantity, ours, kValueBound, report);
}

void check_hidden_states(const GoldenFile& golden, const ModelOutput& out, const Layout& layout,
                         i64 batch, Report& report) {
  for (size_t i = 0; i < out.trace.size(); ++i) {
    const std::string n = std::to_string(i);
    compare_trace(golden, "hidden/" + n, out.trace[i].hidden, report);
    compare_trace(golden, "attn_out/" + n, out.trace[i].attn_out, report);
    compare_trace(golden, "mlp_out/" + n, out.trace[i].mlp_out, report);
  }
  compare_trace(golden, "hidden/" + std::to_string(out.trace.size()), out.last_hidden, report);
  compare_trace(golden, "hidden/final_norm", layout.turn_back(out.hidden.value(), batch), report);
}

// The number of tokens whose chosen experts differ from the file's, in any order.
i64 differing_choices(const Tensor& ours, const Tensor& theirs) {
  const i64 top_k = theirs.shape().last();
  i64 differing = 0;
  for (i64 t = 0; t < theirs.shape().rows(); ++t) {
    const auto a = ours.span<i32>().subspan(size_t(t * top_k), size_t(top_k));
    const auto b = theirs.span<i32>().subspan(size_t(t * top_k), size_t(top_k));
    differing += !std::is_permutation(a.begin(), a.end(), b.begin());
  }
  return differing;
}

// Our weights in the order of the file's experts; NaN for an expert we did not choose.
Tensor in_order_of(const Tensor& their_ids, const RouterStats& ours) {
  const Tensor weights = ours.weights.cast(DType::f64), ordered = Tensor::like(weights);
  const i64 top_k = their_ids.shape().last();
  const i32* ids = ours.expert_ids.data<i32>();
  for (i64 s = 0; s < their_ids.numel(); ++s) {
    const i64 row = s / top_k * top_k;
    const i64 k = std::find(ids + row, ids + row + top_k, their_ids.data<i32>()[s]) - ids - row;
    ordered.data<double>()[s] =
        k < top_k ? weights.data<double>()[row + k] : std::numeric_limits<double>::quiet_NaN();
  }
  return ordered;
}

void check_router(const GoldenFile& golden, const std::string& layer, const RouterStats& stats,
                  DType dtype, Report& report) {
  compare_trace(golden, "router_logits/" + layer, stats.logits, report);
  if (!golden.file.has("topk_idx/" + layer)) {
    return report.failure("topk_idx/" + layer, "missing in the file");
  }
  const Tensor ids = golden.integers("topk_idx/" + layer);
  if (ids.shape() != stats.expert_ids.shape()) {
    return report.failure("topk_idx/" + layer,
                          "ours is " + stats.expert_ids.str() + ", the file's " + ids.str());
  }
  const i64 differing = differing_choices(stats.expert_ids, ids);
  report.line("topk_idx/" + layer, {double(differing), 0},
              differing > 0 ? "tokens with other experts" : "");
  const std::string weight = "topk_weight/" + layer;
  if (dtype == DType::f64 && !golden.has_f64(weight)) return;
  const Tensor ordered = in_order_of(ids, stats).cast(dtype);
  compare_with(golden, weight, ordered, {1e-5, Measure::each_element}, report);
}

void check_routers(const GoldenFile& golden, const ModelConfig& config, const ModelOutput& out,
                   DType dtype, Report& report) {
  std::vector<i64> moe_layers;
  for (i64 i = 0; i < config.num_hidden_layers; ++i) {
    if (is_moe_layer(config, i)) moe_layers.push_back(i);
  }
  if (golden.file.read_i64("moe_layers") != moe_layers) {
    return report.failure("moe_layers", "the configuration says otherwise");
  }
  const Tensor theirs = golden.reference("aux_loss").cast(DType::f64);
  if (theirs.numel() != i64(moe_layers.size())) {
    return report.failure("aux_loss", "expected one for each of moe_layers, got " + theirs.str());
  }
  for (size_t m = 0; m < moe_layers.size(); ++m) {
    const std::string layer = std::to_string(moe_layers[m]);
    check_router(golden, layer, out.router[m], dtype, report);
    const Tensor ours = Tensor::full({}, DType::f64, out.router[m].aux_loss);
    report.line("aux_loss/" + layer,
                compare(ours, theirs.view(i64(m), {}), bound_for(dtype, kAuxLossBound)));
  }
}

// Each against the largest element of that tensor; their 2-norm, in f64, from the file's gradients.
void check_gradients(const GoldenFile& golden, const std::vector<Parameter*>& parameters,
                     DType dtype, const Layout& layout, Report& report) {
  settle_grads(parameters);
  const std::string folder =
      golden.file.has("grads_f64/" + parameters[0]->name) ? "grads_f64" : "grads";
  if (!check_names(golden, folder, layout.everywhere(names_of(parameters)), report)) return;
  Summary summary(report);
  std::vector<double> squares;
  for (const Parameter* p : parameters) {
    const Tensor theirs = golden.reference("grads/" + p->name).cast(DType::f64);
    if (theirs.shape() != p->grad.shape()) {
      report.failure("grads/" + p->name, "expected " + p->grad.str() + ", got " + theirs.str());
      continue;
    }
    summary.add("grads/" + p->name, compare(p->grad, theirs, bound_for(dtype, kGradientBound)));
    double sum = 0;
    for (const double v : theirs.span<double>()) sum += v * v;
    squares.push_back(sum);
  }
  summary.print("grads");
  const Tensor norm = Tensor::full({}, dtype, layout.norm(squared_norms(parameters), parameters));
  if (dtype == DType::f32 || golden.has_f64("grad_norm")) {
    return compare_with(golden, "grad_norm", norm, kNormBound, report);
  }
  report.line("grad_norm", compare(norm, Tensor::full({}, dtype, layout.norm(squares, parameters)),
                                   bound_for(dtype, kNormBound)));
}

}  // namespace

Losses losses(Tape& tape, const Model& model, const Tensor& ids, const Tensor& labels, bool trace) {
  const i64 batch = ids.dim(0), seq = ids.dim(1);
  const Tensor next = Tensor::empty({batch * seq}, DType::i32);
  i64 counted = 0;
  for (i64 t = 0; t < batch * seq; ++t) {
    const bool last = t % seq == seq - 1;
    i32& label = next.data<i32>()[t];
    label = last ? ops::kIgnoredLabel : labels.data<i32>()[t + 1];
    counted += label != ops::kIgnoredLabel;
  }
  if (counted == 0) throw DataError({.key = "labels", .what = "no position is counted"});
  Losses result{model.forward(tape, ids, {}, {.trace = trace}), {}, {}};
  result.cross_entropy =
      ops::linear_cross_entropy(tape, result.out.hidden, tape.parameter(model.head()), next,
                                1.0 / double(counted))
          .loss;
  result.total = ops::add(tape, result.cross_entropy, result.out.aux_loss);
  return result;
}

void check_pass(const GoldenFile& golden, const ModelConfig& config, DType dtype, Report& report,
                const Layout& layout) {
  Model model(config, dtype, layout.ep());
  if (!load_weights(golden, model, layout, report)) return;
  const std::vector<Parameter*> parameters = parameters_of(model);
  Tape tape;
  const Tensor ids = layout.turn(golden.integers("input_ids"));
  Losses ours = losses(tape, model, ids, layout.turn(golden.integers("labels")), true);
  const i64 batch = ids.dim(0);
  layout.turn_back(ours.out, batch);
  check_hidden_states(golden, ours.out, layout, batch, report);
  check_routers(golden, config, ours.out, dtype, report);
  Tape silent(false);
  const Var logits = ops::linear(silent, ours.out.hidden, silent.parameter(model.head()));
  compare_with(golden, "logits", layout.turn_back(logits.value(), batch), kValueBound, report);
  compare_with(golden, "loss", ours.cross_entropy.value(), kLossBound, report);
  compare_with(golden, "total_loss", ours.total.value(), kLossBound, report);
  tape.backward(ops::scale(tape, ours.total, layout.share()));
  layout.sum_gradients(model);
  check_gradients(golden, parameters, dtype, layout, report);
}

}  // namespace quern::golden
