// SPDX-License-Identifier: MIT
// A research baseline of no paper's: attention to learned slots in place of past tokens.
#pragma once

#include "quern/layers/attention_context.h"
#include "quern/layers/kv_cache.h"
#include "quern/layers/linear.h"

namespace quern {

// Every head of every token attends to the same num_attention_slots learned pairs of key and value,
// which all heads share, and to nothing else. No token sees another one, so nothing is kept of past
// tokens: this is what a memory that does not grow with the text amounts to if it is not written
// to. It is not the attention of DeepSeek-V2, whose latents are one for each token.
struct SlotAttention {
  SlotAttention(const ModelConfig& config, const std::string& name, DType dtype);

  // x: [tokens, hidden_size] -> [tokens, hidden_size]
  Var forward(Tape& tape, const Var& x, const AttentionContext& context) const;
  Tensor decode(const Tensor& x, const AttentionContext& context, KvCache::Layer& layer) const;
  void visit(const ParamVisitor& visitor);

  std::string name;
  i64 heads, head_dim;
  double scale;
  Linear q_proj;       // hidden_size -> heads * head_dim
  Linear slot_keys;    // [slots, head_dim]
  Linear slot_values;  // [head_dim, slots]
  Linear o_proj;       // heads * head_dim -> hidden_size
};

}  // namespace quern
