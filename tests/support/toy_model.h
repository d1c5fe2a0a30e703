// SPDX-License-Identifier: MIT
// Small models with random weights for tests of layers, and ways to compare tensors.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "quern/autograd/ops/elementwise.h"
#include "quern/autograd/ops/loss.h"
#include "quern/autograd/ops/matmul.h"
#include "quern/layers/model.h"
#include "tests/support/random_tensor.h"

namespace quern::testing {

// Two layers, dense and MoE, with sizes that are all different.
inline ModelConfig toy_config() {
  return {.vocab_size = 53,
          .hidden_size = 20,
          .intermediate_size = 28,
          .moe_intermediate_size = 9,
          .num_hidden_layers = 2,
          .num_attention_heads = 3,
          .kv_lora_rank = 7,
          .qk_nope_head_dim = 6,
          .qk_rope_head_dim = 4,
          .v_head_dim = 5,
          .n_routed_experts = 8,
          .n_shared_experts = 2,
          .num_experts_per_tok = 3,
          .aux_loss_alpha = 0.05};
}

inline ModelConfig with_vocabulary(ModelConfig c, i64 size) {
  c.vocab_size = size;
  return c;
}

inline ModelConfig with_q_lora(ModelConfig c) {
  c.q_lora_rank = 11;
  return c;
}

// "mha", "gqa" or "mqa", with four heads of 6 columns that gqa shares in pairs.
inline ModelConfig with_attention(ModelConfig c, const std::string& kind) {
  c.attention = kind;
  c.num_attention_heads = 4;
  c.num_key_value_heads = kind == "gqa" ? 2 : 0;
  c.head_dim = 6;
  return c;
}

inline ModelConfig with_yarn(ModelConfig c) {
  c.rope_theta = 100;
  c.rope_scaling = YarnConfig{
      .factor = 8, .original_max_position_embeddings = 6, .mscale = 1, .mscale_all_dim = 0.7};
  return c;
}

inline ModelConfig group_limited(ModelConfig c) {
  c.topk_method = "group_limited_greedy";
  c.n_group = 4;
  c.topk_group = 2;
  c.routed_scaling_factor = 4;
  c.seq_aux = false;
  return c;
}

// The router of DeepSeek-V3.
inline ModelConfig noaux_tc(ModelConfig c) {
  c.topk_method = "noaux_tc";
  c.scoring_func = "sigmoid";
  c.n_group = 4;
  c.topk_group = 2;
  c.norm_topk_prob = true;
  c.routed_scaling_factor = 2.5;
  return c;
}

inline ModelConfig normalised(ModelConfig c) {
  c.norm_topk_prob = true;
  return c;
}

template <class Owner>
std::vector<Parameter*> parameters_of(Owner& owner) {
  std::vector<Parameter*> all;
  owner.visit([&](Parameter& p) { all.push_back(&p); });
  return all;
}

// Weights ~ N(0, std^2) and gains around 1, larger than at the start of training: nothing is near
// a special case.
template <class Owner>
void randomise(Owner& owner, double std = 0.3) {
  owner.visit([&](Parameter& p) {
    fill_normal(p.value, Random(3, p.name), std);
    p.round_image();
    if (p.kind != ParamKind::norm) return;
    for_float_type(p.value, [&]<class T>() {
      for (T& gain : p.value.span<T>()) gain += 1;
    });
  });
}

inline Tensor random_ids(const Shape& shape, i64 below, std::uint64_t seed = 1) {
  const Tensor ids = Tensor::empty(shape, DType::i32);
  const Random random(seed, "ids");
  for (i64 i = 0; i < ids.numel(); ++i) {
    ids.data<i32>()[i] = i32(random.below(std::uint64_t(i), std::uint64_t(below)));
  }
  return ids;
}

inline bool same_bits(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && a.dtype() == b.dtype() &&
         std::memcmp(a.bytes().data(), b.bytes().data(), a.bytes().size()) == 0;
}

// Infinite where a number is not finite or the sizes differ.
inline double largest_difference(const Tensor& a, const Tensor& b) {
  const Tensor x = a.cast(DType::f64), y = b.cast(DType::f64);
  if (x.numel() != y.numel()) return std::numeric_limits<double>::infinity();
  double worst = 0;
  for (i64 i = 0; i < x.numel(); ++i) {
    const double d = std::abs(x.data<double>()[i] - y.data<double>()[i]);
    if (!std::isfinite(d)) return std::numeric_limits<double>::infinity();
    worst = std::max(worst, d);
  }
  return worst;
}

// sum of y times fixed random weights: a scalar that depends on every element.
inline Var weighted_sum(Tape& tape, const Var& y) {
  return ops::sum(tape, ops::mul(tape, y, Var(random_tensor(y.shape(), y.dtype(), 5))));
}

// Attention over whole sequences, as Model::forward sets it up.
inline AttentionContext context_for(const ModelConfig& config, i64 batch, i64 seq) {
  AttentionContext context{
      batch, seq, Tensor::empty({batch * seq}, DType::i32), {}, RopeTable(config, seq, DType::f64)};
  for (i64 t = 0; t < batch * seq; ++t) context.positions.data<i32>()[t] = i32(t % seq);
  return context;
}

// [tokens, vocab] of every position.
inline Tensor logits_of(const Model& model, const Tensor& ids, const Tensor& first_key = {}) {
  Tape silent(false);
  const Var hidden = model.forward(silent, ids, first_key).hidden;
  return ops::linear(silent, hidden, silent.parameter(model.head())).value();
}

}  // namespace quern::testing
