// SPDX-License-Identifier: MIT
#include "quern/layers/block.h"

#include "quern/autograd/ops/elementwise.h"

namespace quern {
namespace {

// A function of several types, from one of each.
template <class... F>
struct overloaded : F... {
  using F::operator()...;
};
template <class... F>
overloaded(F...) -> overloaded<F...>;

std::variant<Mla, Gqa, SlotAttention> make_attention(const ModelConfig& c, const std::string& name,
                                                     DType dtype) {
  if (c.attention == "mla") return Mla(c, name, dtype);
  if (c.attention == "slots") return SlotAttention(c, name, dtype);
  return Gqa(c, name, dtype);
}

}  // namespace

Block::Block(const ModelConfig& c, i64 index, DType dtype, const Communicator& ep)
    : name("model.layers." + std::to_string(index)),
      input_layernorm(name + ".input_layernorm", c.hidden_size, c.rms_norm_eps, dtype),
      parallel(c.block == "parallel"),
      routes_by_latent(c.router_input == "kv_latent"),
      self_attn(make_attention(c, name + ".self_attn", dtype)),
      post_attention_layernorm(name + ".post_attention_layernorm", c.hidden_size, c.rms_norm_eps,
                               dtype) {
  if (is_moe_layer(c, index)) {
    moe.emplace(c, name + ".mlp", dtype, ep);
  } else {
    dense.emplace(name + ".mlp", c.hidden_size, c.intermediate_size, ParamKind::dense_ffn, dtype,
                  c.fp8_operands);
  }
}

BlockOutput Block::feed_forward(Tape& tape, const Var& x, const Var& a, const Var& latents,
                                const RoutingContext& routing) const {
  const Var h = post_attention_layernorm.forward(tape, parallel ? x : a);
  if (dense) {
    const Var f = dense->forward(tape, h);
    return {ops::add(tape, a, f), Var(Tensor::zeros({}, a.dtype())), std::nullopt, {}, f.value()};
  }
  RoutingContext own = routing;
  if (routes_by_latent) own.gate_input = latents;
  MoeOutput out = moe->forward(tape, h, own);
  return {ops::add(tape, a, out.y), out.aux_loss, std::move(out.stats), {}, out.y.value()};
}

BlockOutput Block::forward(Tape& tape, const Var& x, const AttentionContext& context,
                           const RoutingContext& routing) const {
  const Tape::Scope scope(tape, name);
  const Var h = input_layernorm.forward(tape, x);
  Var latents;
  const Var attended =
      std::visit(overloaded{[&](const Mla& mla) { return mla.forward(tape, h, context, &latents); },
                            [&](const auto& other) { return other.forward(tape, h, context); }},
                 self_attn);
  BlockOutput out = feed_forward(tape, x, ops::add(tape, x, attended), latents, routing);
  out.attn_out = attended.value();
  return out;
}

Tensor Block::decode(const Tensor& x, const AttentionContext& context, KvCache::Layer& cache,
                     const RoutingContext& routing) const {
  Tape silent(false, context.products);
  const Tensor h = input_layernorm.forward(silent, Var(x)).value();
  Var latents;
  const Tensor attended =
      std::visit(overloaded{[&](const Mla& mla) { return mla.decode(h, context, cache, &latents); },
                            [&](const auto& other) { return other.decode(h, context, cache); }},
                 self_attn);
  const Var a = ops::add(silent, Var(x), Var(attended));
  return feed_forward(silent, Var(x), a, latents, routing).y.value();
}

void Block::visit(const ParamVisitor& visitor) {
  input_layernorm.visit(visitor);
  std::visit([&](auto& attention) { attention.visit(visitor); }, self_attn);
  post_attention_layernorm.visit(visitor);
  if (dense) dense->visit(visitor);
  if (moe) moe->visit(visitor);
}

}  // namespace quern
