// SPDX-License-Identifier: MIT
// Multi-head latent attention.
#pragma once

#include "quern/layers/attention_context.h"
#include "quern/layers/kv_cache.h"
#include "quern/layers/linear.h"

namespace quern {

// Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, eqs. 9-19 and appendix C).
// Keys and values are rebuilt from one latent vector per token, of width kv_lora_rank; the
// rotary part of the key is shared by all heads.
struct Mla {
  Mla(const ModelConfig& config, const std::string& name, DType dtype);

  // x: [tokens, hidden_size] -> [tokens, hidden_size], with tokens = batch * seq
  // `latents`, where it is given, becomes what keys and values come from, [tokens, kv_lora_rank];
  // `fill` gets what decode() wants of these tokens.
  Var forward(Tape& tape, const Var& x, const AttentionContext& context, Var* latents = nullptr,
              KvCache::Layer* fill = nullptr) const;

  // The same for new tokens that continue sequences of the cache; puts them into `layer`, which
  // has those before them. Weights are absorbed (appendix C), nothing is recorded.
  // x: [new tokens, hidden_size]
  Tensor decode(const Tensor& x, const AttentionContext& context, KvCache::Layer& layer,
                Var* latents = nullptr) const;

  void visit(const ParamVisitor& visitor);

  std::string name;
  DType dtype;
  i64 heads, nope, rope_dim, value, latent;
  i64 latent_bits, latent_group;  // of latents that are rounded; 0 bits: as they are
  double scale;
  bool compress_queries;
  Linear q_proj;              // hidden_size -> heads * (nope + rope), or the three below
  Linear q_a_proj;            // hidden_size -> q_lora_rank
  RmsNorm q_a_layernorm;      // the norms of the latents have eps 1e-6 whatever rms_norm_eps says
  Linear q_b_proj;            // q_lora_rank -> heads * (nope + rope)
  Linear kv_a_proj_with_mqa;  // hidden_size -> kv_lora_rank + rope
  RmsNorm kv_a_layernorm;
  Linear kv_b_proj;  // kv_lora_rank -> heads * (nope + value)
  Linear o_proj;     // heads * value -> hidden_size

 private:
  Var queries(Tape& tape, const Var& x, const AttentionContext& context) const;
  struct KeyParts {
    Var latent;  // [tokens, kv_lora_rank], normed
    Var k_rope;  // [tokens, 1, rope], rotated
  };
  KeyParts rounded(Tape& tape, const KeyParts& keys) const;
  Tensor as_operand(const Tensor& x, i64 block_rows) const;
  KeyParts key_parts(Tape& tape, const Var& x, const AttentionContext& context) const;
  void put(const KeyParts& keys, const AttentionContext& context, KvCache::Layer& layer) const;
};

}  // namespace quern
