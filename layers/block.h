// SPDX-License-Identifier: MIT
// One layer of the model: attention, then a dense or a mixture-of-experts network.
#pragma once

#include <optional>
#include <variant>

#include "quern/layers/gqa.h"
#include "quern/layers/mla.h"
#include "quern/layers/moe.h"

namespace quern {

struct BlockOutput {
  Var y;         // [tokens, hidden]
  Var aux_loss;  // scalar; a constant zero in dense layers
  std::optional<RouterStats> router;
  Tensor attn_out, mlp_out;  // what each half added, [tokens, hidden]
};

// a = x + attention(norm(x));  y = a + ffn(norm(a))
struct Block {
  Block(const ModelConfig& config, i64 index, DType dtype, const Communicator& ep = {});

  BlockOutput forward(Tape& tape, const Var& x, const AttentionContext& context,
                      const RoutingContext& routing) const;
  // New tokens of one sequence; see Mla::decode and Gqa::decode.
  Tensor decode(const Tensor& x, const AttentionContext& context, KvCache::Layer& cache, i64 past,
                const RoutingContext& routing) const;
  void visit(const ParamVisitor& visitor);

  std::string name;  // "model.layers.<index>"
  RmsNorm input_layernorm;
  std::variant<Mla, Gqa> self_attn;
  RmsNorm post_attention_layernorm;
  std::optional<Mlp> dense;  // one of the two
  std::optional<Moe> moe;

 private:
  BlockOutput feed_forward(Tape& tape, const Var& a, const RoutingContext& routing) const;
};

}  // namespace quern
