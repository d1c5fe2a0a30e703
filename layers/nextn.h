// SPDX-License-Identifier: MIT
// Multi-token prediction: modules behind the last layer that predict tokens further ahead.
#pragma once

#include <vector>

#include "quern/layers/block.h"

namespace quern {

// Module k = 1, 2, ... of DeepSeek-V3 (arXiv:2412.19437, eqs. 21-23): the hidden state of a token
// and the embedding of the token k places on, each normed, become one by eh_proj and pass through a
// layer of its own. Embedding and head are the model's. Names and the order in eh_proj, embedding
// first, are those of the published weights, where the module is layer num_hidden_layers + k - 1.
struct NextnModule {
  NextnModule(const ModelConfig& config, i64 depth, DType dtype, const Communicator& ep = {});

  // hidden, embedded: [tokens, hidden_size]
  BlockOutput forward(Tape& tape, const Var& hidden, const Var& embedded,
                      const AttentionContext& context, const RoutingContext& routing) const;
  void visit(const ParamVisitor& visitor);

  i64 depth;  // k
  RmsNorm enorm, hnorm;
  Linear eh_proj;  // 2 * hidden_size -> hidden_size
  Block block;
  RmsNorm shared_head_norm;  // of the module's result, before the head
};

// Of [batch, seq]: columns from `begin` on, so many; or nothing of nothing.
Tensor columns_of(const Tensor& matrix, i64 begin, i64 count);

// What module k shall predict: [batch * (seq - k)]. Place i predicts the token k + 1 on, which is
// labels[i + k], unless a document begins on the way and hides i from there.
// labels, first_key: i32 [batch, seq], the latter or nothing.
Tensor nextn_labels(const Tensor& labels, const Tensor& first_key, i64 k);

// The modules' losses, eqs. 24 and 25 without the weight: the mean over modules of scale times the
// sum of nll.   hidden: of each module, [batch * (seq - k), hidden_size], normed
Var nextn_loss(Tape& tape, const std::vector<Var>& hidden, const Var& head, const Tensor& labels,
               const Tensor& first_key, double scale);

}  // namespace quern
