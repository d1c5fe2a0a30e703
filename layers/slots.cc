// SPDX-License-Identifier: MIT
#include "quern/layers/slots.h"

#include "quern/autograd/ops/elementwise.h"
#include "quern/autograd/ops/layout.h"
#include "quern/layers/attention_shape.h"

namespace quern {

SlotAttention::SlotAttention(const ModelConfig& c, const std::string& name, DType dtype)
    : name(name),
      heads(c.num_attention_heads),
      head_dim(head_shape(c).key),
      scale(softmax_scale(c)) {
  const auto linear = [&](const char* part, i64 in, i64 out) {
    return Linear(name + "." + part, in, out, ParamKind::attention, dtype, c.fp8_operands);
  };
  q_proj = linear("q_proj", c.hidden_size, heads * head_dim);
  slot_keys = linear("slot_keys", head_dim, c.num_attention_slots);
  slot_values = linear("slot_values", c.num_attention_slots, head_dim);
  o_proj = linear("o_proj", heads * head_dim, c.hidden_size);
}

Var SlotAttention::forward(Tape& tape, const Var& x, const AttentionContext&) const {
  const Tape::Scope scope(tape, name);
  const i64 tokens = x.dim(0);
  const Var q = ops::reshape(tape, q_proj.forward(tape, x), {tokens * heads, head_dim});
  const Var scores =
      ops::scale(tape, slot_keys.forward(tape, q), scale);  // [tokens * heads, slots]
  const Var mixed = slot_values.forward(tape, ops::softmax(tape, scores));
  return o_proj.forward(tape, ops::reshape(tape, mixed, {tokens, heads * head_dim}));
}

Tensor SlotAttention::decode(const Tensor& x, const AttentionContext& context,
                             KvCache::Layer&) const {
  Tape silent(false, context.products);
  return forward(silent, Var(x), context).value();
}

void SlotAttention::visit(const ParamVisitor& visitor) {
  q_proj.visit(visitor);
  slot_keys.visit(visitor);
  slot_values.visit(visitor);
  o_proj.visit(visitor);
}

}  // namespace quern
