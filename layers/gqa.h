// SPDX-License-Identifier: MIT
// Attention whose heads have keys and values of their own, or share them in groups.
#pragma once

#include "quern/layers/attention_context.h"
#include "quern/layers/kv_cache.h"
#include "quern/layers/linear.h"

namespace quern {

// Grouped-query attention (arXiv:2305.13245, section 2.2): num_attention_heads / kv_heads heads in
// a row share keys and values. With kv_heads = num_attention_heads it is multi-head attention
// (arXiv:1706.03762, section 3.2.2), with one it is multi-query attention (arXiv:1911.02150).
// As in Llama (arXiv:2302.13971), nothing has a bias and rotary embeddings turn whole heads. Pairs
// are columns i and i + head_dim / 2, as Hugging Face keeps such weights; those of MLA are 2i and
// 2i + 1.
struct Gqa {
  Gqa(const ModelConfig& config, const std::string& name, DType dtype);

  // x: [tokens, hidden_size] -> [tokens, hidden_size], with tokens = batch * seq
  // `fill`, if given, gets what decode() wants of these tokens.
  Var forward(Tape& tape, const Var& x, const AttentionContext& context,
              KvCache::Layer* fill = nullptr) const;

  // The same for new tokens that continue sequences of the cache; puts them into `layer`, which
  // has those before them. Nothing is recorded.   x: [new tokens, hidden_size]
  Tensor decode(const Tensor& x, const AttentionContext& context, KvCache::Layer& layer) const;

  void visit(const ParamVisitor& visitor);

  std::string name;
  DType dtype;
  i64 heads, kv_heads, head_dim;
  double scale;
  Linear q_proj;  // hidden_size -> heads * head_dim
  Linear k_proj;  // hidden_size -> kv_heads * head_dim
  Linear v_proj;  // hidden_size -> kv_heads * head_dim
  Linear o_proj;  // heads * head_dim -> hidden_size

 private:
  // One projection by head, rotated.   x: [tokens, hidden_size] -> [tokens, count, head_dim]
  Var rotated(Tape& tape, const Var& x, const Linear& projection, i64 count,
              const AttentionContext& context) const;
};

}  // namespace quern
