// SPDX-License-Identifier: MIT
#include "quern/layers/gqa.h"

#include "quern/autograd/ops/attention.h"
#include "quern/autograd/ops/grouped_query_decode.h"
#include "quern/autograd/ops/layout.h"
#include "quern/autograd/ops/rope.h"
#include "quern/layers/attention_shape.h"

namespace quern {

Gqa::Gqa(const ModelConfig& c, const std::string& name, DType dtype)
    : name(name),
      dtype(dtype),
      heads(c.num_attention_heads),
      kv_heads(head_shape(c).kv_heads),
      head_dim(head_shape(c).key),
      scale(softmax_scale(c)) {
  const auto linear = [&](const char* part, i64 in, i64 out) {
    return Linear(name + "." + part, in, out, ParamKind::attention, dtype, c.fp8_operands);
  };
  q_proj = linear("q_proj", c.hidden_size, heads * head_dim);
  k_proj = linear("k_proj", c.hidden_size, kv_heads * head_dim);
  v_proj = linear("v_proj", c.hidden_size, kv_heads * head_dim);
  o_proj = linear("o_proj", heads * head_dim, c.hidden_size);
}

Var Gqa::rotated(Tape& tape, const Var& x, const Linear& projection, i64 count,
                 const AttentionContext& context) const {
  const Var by_head = ops::reshape(tape, projection.forward(tape, x), {x.dim(0), count, head_dim});
  return ops::rope(tape, by_head, context.rope.cos, context.rope.sin, context.positions,
                   ops::RopePairs::halves);
}

Var Gqa::forward(Tape& tape, const Var& x, const AttentionContext& context,
                 KvCache::Layer* fill) const {
  const Tape::Scope scope(tape, name);
  const i64 batch = context.batch, seq = context.seq;
  const Var q = rotated(tape, x, q_proj, heads, context);     // [tokens, heads, head_dim]
  const Var k = rotated(tape, x, k_proj, kv_heads, context);  // [tokens, kv_heads, head_dim]
  const Var v = v_proj.forward(tape, x);                      // [tokens, kv_heads * head_dim]
  if (fill) {
    const ops::NewTokens at{context.sequences, context.positions};
    ops::put_rows(fill->keys, at, k.value());
    ops::put_rows(fill->values, at, v.value());
  }
  const Var out = ops::grouped_query_attention(
      tape, ops::reshape(tape, q, {batch, seq, heads, head_dim}),
      ops::reshape(tape, k, {batch, seq, kv_heads, head_dim}),
      ops::reshape(tape, v, {batch, seq, kv_heads, head_dim}), context.first_key, scale,
      dtype);  // [batch, seq, heads * head_dim]
  return o_proj.forward(tape, ops::reshape(tape, out, {batch * seq, heads * head_dim}));
}

Tensor Gqa::decode(const Tensor& x, const AttentionContext& context, KvCache::Layer& layer) const {
  Tape silent(false, context.products);
  if (context.whole) return forward(silent, Var(x), context, &layer).value();
  const ops::NewTokens at{context.sequences, context.positions};
  const Var q = rotated(silent, Var(x), q_proj, heads, context);
  ops::put_rows(layer.keys, at, rotated(silent, Var(x), k_proj, kv_heads, context).value());
  ops::put_rows(layer.values, at, v_proj.forward(silent, Var(x)).value());
  const Tensor out = ops::grouped_query_decode(q.value(), at, layer.keys, layer.values,
                                               scale);  // [new tokens, heads * head_dim]
  return o_proj.forward(silent, Var(out)).value();
}

void Gqa::visit(const ParamVisitor& visitor) {
  q_proj.visit(visitor);
  k_proj.visit(visitor);
  v_proj.visit(visitor);
  o_proj.visit(visitor);
}

}  // namespace quern
