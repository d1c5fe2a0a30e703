// SPDX-License-Identifier: MIT
// One layer of the model: attention, then a dense or a mixture-of-experts network.
#pragma once

#include <optional>
#include <variant>

#include "quern/layers/gqa.h"
#include "quern/layers/mla.h"
#include "quern/layers/moe.h"
#include "quern/layers/slots.h"

namespace quern {

struct BlockOutput {
  Var y;         // [tokens, hidden]
  Var aux_loss;  // scalar; a constant zero in dense layers
  std::optional<RouterStats> router;
  Tensor attn_out, mlp_out;  // what each half added, [tokens, hidden]
};

// a = x + attention(norm(x));  y = a + ffn(norm(a)); or, where it is parallel, y = a +
// ffn(norm(x)).
struct Block {
  Block(const ModelConfig& config, i64 index, DType dtype, const Communicator& ep = {});

  BlockOutput forward(Tape& tape, const Var& x, const AttentionContext& context,
                      const RoutingContext& routing) const;
  // Of new tokens; see Mla::decode and Gqa::decode.
  Tensor decode(const Tensor& x, const AttentionContext& context, KvCache::Layer& cache,
                const RoutingContext& routing) const;
  void visit(const ParamVisitor& visitor);

  std::string name;  // "model.layers.<index>"
  RmsNorm input_layernorm;
  bool parallel;
  bool routes_by_latent;  // the router reads MLA's latents
  std::variant<Mla, Gqa, SlotAttention> self_attn;
  RmsNorm post_attention_layernorm;
  std::optional<Mlp> dense;  // one of the two
  std::optional<Moe> moe;

 private:
  // What it reads is x, where it is parallel, or a; latents: of MLA, or nothing.
  BlockOutput feed_forward(Tape& tape, const Var& x, const Var& a, const Var& latents,
                           const RoutingContext& routing) const;
};

}  // namespace quern
