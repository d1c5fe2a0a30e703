// SPDX-License-Identifier: MIT
#include "quern/recipes/internal/operation_cost.h"

#include <algorithm>

namespace quern::internal {
namespace {

struct Phases {
  double forward = 0, backward = 0;
};

// A product of an operand and a weight; each gradient that is asked for is one more.
Phases product(double flops, const Var& x, const Var& weight) {
  return {flops, flops * (double(x.requires_grad()) + double(weight.requires_grad()))};
}

// x: [tokens, d], weights: [tokens, top_k], gate_up: [experts, 2 * width, d], down: [.., d, width]
Phases experts(const Var& x, const Var& weights, const Var& gate_up, const Var& down) {
  const double down_flops =
      2.0 * double(weights.value().numel()) * double(down.dim(1) * down.dim(2));
  const Phases first = product(2 * down_flops, x, gate_up);
  // The gradient of what goes into down is needed for all but its own.
  const bool inner = x.requires_grad() || weights.requires_grad() || gate_up.requires_grad();
  return {3 * down_flops,
          first.backward + down_flops * (double(inner) + double(down.requires_grad()))};
}

// q: [batch, seq, heads, key]; value: the width of a head's result
Phases attention(const Var& q, double value) {
  const double seq = double(q.dim(1)), pairs = double(q.dim(0) * q.dim(2)) * seq * (seq + 1) / 2;
  const double forward = 2 * pairs * (double(q.dim(3)) + value);
  return {forward, 2 * forward};
}

Phases flops_of(std::string_view op, std::span<const Var> in, std::span<const Var> out,
                bool recorded) {
  if (op == "linear") {
    return product(2.0 * double(in[0].dim(0)) * double(in[1].value().numel()), in[0], in[1]);
  }
  if (op == "grouped_linear") {
    return product(2.0 * double(in[0].dim(0)) * double(in[1].dim(1) * in[1].dim(2)), in[0], in[1]);
  }
  if (op == "expert_ffn") return experts(in[0], in[1], in[2], in[3]);
  if (op == "mla_attention" || op == "grouped_query_attention") {
    return attention(
        in[0], double(out[0].value().numel()) / double(in[0].dim(0) * in[0].dim(1) * in[0].dim(2)));
  }
  if (op == "linear_cross_entropy" || op == "linear_distillation") {
    const Phases all =
        product(2.0 * double(in[0].dim(0)) * double(in[1].value().numel()), in[0], in[1]);
    return {all.forward + (recorded ? all.backward : 0), 0};
  }
  return {};
}

double bytes_of(const Tensor& t) { return t.defined() ? double(t.bytes().size()) : 0; }

bool hands_on(std::span<const Var> inputs, std::span<const Var> outputs) {
  return std::ranges::any_of(outputs, [&](const Var& y) {
    return std::ranges::any_of(inputs, [&](const Var& x) {
      return x.value().defined() && x.value().bytes().data() == y.value().bytes().data();
    });
  });
}

Phases bytes_of(std::string_view op, std::span<const Var> inputs, std::span<const Var> outputs) {
  double read = 0, gradients = 0, results = 0, dys = 0;
  for (const Var& x : inputs) {
    read += bytes_of(x.operand());
    if (x.requires_grad()) {
      gradients += double(x.value().numel() * size_of(sum_type(x.dtype())));
    }
  }
  for (const Var& y : outputs) {
    results += bytes_of(y.value());
    dys += double(y.value().numel() * size_of(sum_type(y.dtype())));
  }
  // These read as many rows or columns as they give.
  if (op == "embedding" || op == "slice_columns") read = results;
  return {read + results, dys + read + gradients};
}

}  // namespace

OperationCost cost_of(std::string_view op, std::span<const Var> inputs,
                      std::span<const Var> outputs, bool recorded) {
  if (op == "recompute" || hands_on(inputs, outputs)) return {};
  const Phases flops = flops_of(op, inputs, outputs, recorded);
  const Phases bytes = bytes_of(op, inputs, outputs);
  OperationCost cost{{flops.forward, bytes.forward}, {}};
  if (recorded) cost.backward = {flops.backward, bytes.backward};
  return cost;
}

}  // namespace quern::internal
