// SPDX-License-Identifier: MIT
#include "quern/layers/mla.h"

#include "quern/autograd/ops/attention.h"
#include "quern/autograd/ops/layout.h"
#include "quern/autograd/ops/low_bits.h"
#include "quern/autograd/ops/mla_decode.h"
#include "quern/autograd/ops/rope.h"

namespace quern {
namespace {

constexpr double kLatentNormEps = 1e-6;
constexpr i64 kBlock = 128;  // of FP8 scales

}  // namespace

Mla::Mla(const ModelConfig& c, const std::string& name, DType dtype)
    : name(name),
      dtype(dtype),
      heads(c.num_attention_heads),
      nope(c.qk_nope_head_dim),
      rope_dim(c.qk_rope_head_dim),
      value(c.v_head_dim),
      latent(c.kv_lora_rank),
      latent_bits(c.latent_bits),
      latent_group(c.latent_group_size),
      scale(softmax_scale(c)),
      compress_queries(c.q_lora_rank > 0) {
  const auto linear = [&](const char* part, i64 in, i64 out) {
    return Linear(name + "." + part, in, out, ParamKind::attention, dtype, c.fp8_operands);
  };
  if (compress_queries) {
    q_a_proj = linear("q_a_proj", c.hidden_size, c.q_lora_rank);
    q_a_layernorm = RmsNorm(name + ".q_a_layernorm", c.q_lora_rank, kLatentNormEps, dtype);
    q_b_proj = linear("q_b_proj", c.q_lora_rank, heads * (nope + rope_dim));
  } else {
    q_proj = linear("q_proj", c.hidden_size, heads * (nope + rope_dim));
  }
  kv_a_proj_with_mqa = linear("kv_a_proj_with_mqa", c.hidden_size, latent + rope_dim);
  kv_a_layernorm = RmsNorm(name + ".kv_a_layernorm", latent, kLatentNormEps, dtype);
  kv_b_proj = linear("kv_b_proj", latent, heads * (nope + value));
  o_proj = linear("o_proj", heads * value, c.hidden_size);
}

Var Mla::queries(Tape& tape, const Var& x, const AttentionContext& context) const {
  const Var q = compress_queries
                    ? q_b_proj.forward(tape, q_a_layernorm.forward(tape, q_a_proj.forward(tape, x)))
                    : q_proj.forward(tape, x);
  const Var by_head = ops::reshape(tape, q, {x.dim(0), heads, nope + rope_dim});
  return ops::rope(tape, by_head, context.rope.cos, context.rope.sin, context.positions);
}

Mla::KeyParts Mla::key_parts(Tape& tape, const Var& x, const AttentionContext& context) const {
  const Var both = kv_a_proj_with_mqa.forward(tape, x);  // [tokens, latent + rope]
  const Var compressed = ops::slice_columns(tape, both, 0, latent);
  const Var key = ops::slice_columns(tape, both, latent, latent + rope_dim);
  const Var one_head = ops::reshape(tape, key, {x.dim(0), 1, rope_dim});
  return {kv_a_layernorm.forward(tape, compressed),
          ops::rope(tape, one_head, context.rope.cos, context.rope.sin, context.positions)};
}

// As the cache would give them back.
Mla::KeyParts Mla::rounded(Tape& tape, const KeyParts& keys) const {
  if (latent_bits == 0) return keys;
  return {ops::straight_through(
              tape, keys.latent,
              ops::packed_and_unpacked(keys.latent.value(), latent_bits, latent_group)),
          ops::straight_through(tape, keys.k_rope, ops::through_bf16(keys.k_rope.value()))};
}

void Mla::put(const KeyParts& keys, const AttentionContext& context, KvCache::Layer& layer) const {
  layer.keep({context.sequences, context.positions}, keys.latent.value(), keys.k_rope.value());
}

Var Mla::forward(Tape& tape, const Var& x, const AttentionContext& context, Var* latents,
                 KvCache::Layer* fill) const {
  const Tape::Scope scope(tape, name);
  const i64 batch = context.batch, seq = context.seq;
  const Var q = queries(tape, x, context);             // [tokens, heads, nope + rope]
  const KeyParts exact = key_parts(tape, x, context);  // [tokens, latent], [tokens, 1, rope]
  if (latents != nullptr) *latents = exact.latent;
  if (fill != nullptr) put(exact, context, *fill);
  const KeyParts keys = rounded(tape, exact);
  const Var kv = kv_b_proj.forward(tape, keys.latent);  // [tokens, heads * (nope + value)]
  const Var out =
      ops::mla_attention(tape, ops::reshape(tape, q, {batch, seq, heads, nope + rope_dim}),
                         ops::reshape(tape, kv, {batch, seq, heads, nope + value}),
                         ops::reshape(tape, keys.k_rope, {batch, seq, rope_dim}), context.first_key,
                         scale, dtype);  // [batch, seq, heads * value]
  return o_proj.forward(tape, ops::reshape(tape, out, {batch * seq, heads * value}));
}

// What kv_b_proj's product reads: with FP8 operands, rounded.
Tensor Mla::as_operand(const Tensor& x, i64 block_rows) const {
  return kv_b_proj.fp8 ? ops::through_e4m3(x, block_rows, kBlock) : x;
}

Tensor Mla::decode(const Tensor& x, const AttentionContext& context, KvCache::Layer& layer,
                   Var* latents) const {
  Tape silent(false, context.products);
  if (context.whole) return forward(silent, Var(x), context, latents, &layer).value();
  const ops::NewTokens at{context.sequences, context.positions};
  const Var q = queries(silent, Var(x), context);
  const KeyParts keys = key_parts(silent, Var(x), context);
  if (latents != nullptr) *latents = keys.latent;
  put(keys, context, layer);
  if (!layer.kv_b.defined()) layer.kv_b = as_operand(merged(kv_b_proj.weight), kBlock);
  const KvCache::Kept kept = layer.kept(at);
  const Tensor rows = kept.latent.reshape({kept.latent.dim(0) * kept.latent.dim(1), latent});
  const Tensor out =
      ops::mla_decode(q.value(), at, as_operand(rows, 1).reshape(kept.latent.shape()), kept.k_rope,
                      layer.kv_b, nope, value,
                      scale);  // [new tokens, heads * value]
  return o_proj.forward(silent, Var(out)).value();
}

void Mla::visit(const ParamVisitor& visitor) {
  if (compress_queries) {
    q_a_proj.visit(visitor);
    q_a_layernorm.visit(visitor);
    q_b_proj.visit(visitor);
  } else {
    q_proj.visit(visitor);
  }
  kv_a_proj_with_mqa.visit(visitor);
  kv_a_layernorm.visit(visitor);
  kv_b_proj.visit(visitor);
  o_proj.visit(visitor);
}

}  // namespace quern
