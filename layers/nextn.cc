// SPDX-License-Identifier: MIT
#include "quern/layers/nextn.h"

#include <algorithm>
#include <string>

#include "quern/autograd/ops/elementwise.h"
#include "quern/autograd/ops/layout.h"
#include "quern/autograd/ops/loss.h"

namespace quern {

NextnModule::NextnModule(const ModelConfig& c, i64 k, DType dtype, const Communicator& ep)
    : depth(k), block(c, c.num_hidden_layers + k - 1, dtype, ep) {
  const DType plain = sum_type(dtype);
  const auto norm = [&](const char* part, DType out) {
    return RmsNorm(block.name + part, c.hidden_size, c.rms_norm_eps, out);
  };
  enorm = norm(".enorm", plain);
  hnorm = norm(".hnorm", plain);
  eh_proj = Linear(block.name + ".eh_proj", 2 * c.hidden_size, c.hidden_size, ParamKind::dense_ffn,
                   dtype);
  shared_head_norm = norm(".shared_head.norm", plain);
}

BlockOutput NextnModule::forward(Tape& tape, const Var& hidden, const Var& embedded,
                                 const AttentionContext& context,
                                 const RoutingContext& routing) const {
  const i64 tokens = hidden.dim(0), width = hidden.dim(1);
  Var both(Tensor::zeros({tokens, 2 * width}, hidden.dtype()));
  both = ops::add_to_columns(tape, both, enorm.forward(tape, embedded), 0, 1);
  both = ops::add_to_columns(tape, both, hnorm.forward(tape, hidden), width, 1);
  return block.forward(tape, eh_proj.forward(tape, both), context, routing);
}

void NextnModule::visit(const ParamVisitor& visitor) {
  enorm.visit(visitor);
  hnorm.visit(visitor);
  eh_proj.visit(visitor);
  block.visit(visitor);
  shared_head_norm.visit(visitor);
}

Tensor columns_of(const Tensor& matrix, i64 begin, i64 count) {
  if (!matrix.defined()) return {};
  const i64 rows = matrix.dim(0), columns = matrix.dim(1);
  const Tensor some = Tensor::empty({rows, count}, matrix.dtype());
  for (i64 r = 0; r < rows; ++r) {
    const i32* from = matrix.data<i32>() + r * columns + begin;
    std::copy(from, from + count, some.data<i32>() + r * count);
  }
  return some;
}

Tensor nextn_labels(const Tensor& labels, const Tensor& first_key, i64 k) {
  const i64 kept = labels.dim(1) - k;
  const Tensor ahead = columns_of(labels, k, kept);
  if (first_key.defined()) {
    const Tensor sees_from = columns_of(first_key, k, kept);
    for (i64 i = 0; i < ahead.numel(); ++i) {
      if (sees_from.data<i32>()[i] > i % kept) ahead.data<i32>()[i] = ops::kIgnoredLabel;
    }
  }
  return ahead.reshape({ahead.numel()});
}

Var nextn_loss(Tape& tape, const std::vector<Var>& hidden, const Var& head, const Tensor& labels,
               const Tensor& first_key, double scale) {
  Var sum(Tensor::zeros({}, head.dtype()));
  for (size_t i = 0; i < hidden.size(); ++i) {
    const Tensor ahead = nextn_labels(labels, first_key, i64(i) + 1);
    const double share = scale / double(hidden.size());
    sum = ops::add(tape, sum, ops::linear_cross_entropy(tape, hidden[i], head, ahead, share).loss);
  }
  return sum;
}

}  // namespace quern
