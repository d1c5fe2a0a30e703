// SPDX-License-Identifier: MIT
// Options that no paper has: gradients, decoding, counts, and what each is to do.
#include <gtest/gtest.h>

#include <cmath>

#include "quern/autograd/error.h"
#include "quern/autograd/gradcheck.h"
#include "quern/layers/attention_shape.h"
#include "tests/layers/model_step.h"

namespace quern {
namespace {

using namespace testing;

ModelConfig by_latent(ModelConfig c) {
  c.router_input = "kv_latent";
  return c;
}

ModelConfig parallel(ModelConfig c) {
  c.block = "parallel";
  return c;
}

ModelConfig with_slots(ModelConfig c) {
  c.attention = "slots";
  c.num_attention_slots = 5;
  c.head_dim = 6;
  return c;
}

ModelConfig with_latent_bits(ModelConfig c, i64 bits) {
  c.latent_bits = bits;
  c.latent_group_size = 3;
  return c;
}

ModelConfig fp8(ModelConfig c) {
  c.fp8_operands = true;
  return c;
}

// Differentiable as they are, or rounded.
std::vector<ModelConfig> smooth() {
  return {by_latent(toy_config()),
          by_latent(with_q_lora(noaux_tc(toy_config()))),
          parallel(with_yarn(toy_config())),
          parallel(with_attention(toy_config(), "gqa")),
          parallel(by_latent(group_limited(toy_config()))),
          with_slots(toy_config())};
}

std::vector<ModelConfig> rounded() {
  return {with_latent_bits(toy_config(), 4),
          with_latent_bits(by_latent(toy_config()), 6),
          with_latent_bits(with_q_lora(toy_config()), 8),
          fp8(toy_config()),
          fp8(with_attention(toy_config(), "mqa")),
          fp8(with_slots(toy_config()))};
}

std::vector<ModelConfig> all() {
  std::vector<ModelConfig> configs = smooth();
  for (const ModelConfig& c : rounded()) configs.push_back(c);
  return configs;
}

TEST(Experiments, HaveAsManyParametersAsCounted) {
  for (const ModelConfig& c : all()) {
    validate(c);
    EXPECT_NE(experiments_of(c), "");
    Model model(c, DType::f32);
    i64 total = 0, router = 0;
    model.visit([&](Parameter& p) {
      total += p.value.numel();
      if (p.kind == ParamKind::router) router += p.value.numel();
    });
    EXPECT_EQ(total, count_parameters(c).total) << experiments_of(c);
    EXPECT_EQ(router, count_parameters(c).router) << experiments_of(c);
  }
  EXPECT_EQ(experiments_of(with_q_lora(toy_config())), "");
}

double worst_of(Model& model, const std::vector<Parameter*>& parameters, std::string& detail) {
  const Tensor ids = random_ids({2, 6}, model.config.vocab_size);
  const Tensor labels = random_ids({12}, model.config.vocab_size, 2);
  const GradcheckReport report = gradcheck_parameters(
      [&](Tape& tape) { return loss_of(tape, model, model.forward(tape, ids), labels, 1.0 / 12); },
      parameters, 2);
  detail = experiments_of(model.config) + ": " + report.detail;
  return report.worst;
}

TEST(Experiments, GradientsOfTheWhole) {
  for (const ModelConfig& c : smooth()) {
    Model model = random_model(c);
    std::string detail;
    EXPECT_LT(worst_of(model, parameters_of(model), detail), 1e-6) << detail;
  }
}

// Behind the rounding gradients are exact; before it they are those of the estimator.
TEST(Experiments, GradientsBehindRoundedLatents) {
  for (const i64 bits : {4, 8}) {
    ModelConfig c = with_latent_bits(toy_config(), bits);
    c.num_hidden_layers = 1;
    c.first_k_dense_replace = 0;
    Model model = random_model(c);
    std::vector<Parameter*> behind;
    for (Parameter* p : parameters_of(model)) {
      const bool before = p->name.find("embed") != std::string::npos ||
                          p->name.find("input_layernorm") != std::string::npos ||
                          p->name.find("kv_a") != std::string::npos;
      if (!before) behind.push_back(p);
    }
    EXPECT_GT(behind.size(), 10U);
    std::string detail;
    EXPECT_LT(worst_of(model, behind, detail), 1e-6) << detail;
  }
}

double dot(const Tensor& a, const Tensor& b) {
  double sum = 0;
  for (i64 i = 0; i < a.numel(); ++i) sum += a.data<double>()[i] * b.data<double>()[i];
  return sum;
}

// The gradients of a rounded model point where those of the exact one do.
TEST(Experiments, RoundingBarelyTurnsTheGradients) {
  for (const ModelConfig& c : {with_latent_bits(toy_config(), 8), fp8(toy_config())}) {
    ModelConfig plain = c;
    plain.latent_bits = 0;
    plain.fp8_operands = false;
    Model model = random_model(c), exact = random_model(plain);
    const Tensor ids = random_ids({2, 6}, 53);
    const Step a = step_of(model, ids), b = step_of(exact, ids);
    EXPECT_NE(a.loss.item(), b.loss.item());
    EXPECT_NEAR(a.loss.item(), b.loss.item(), 0.1 * b.loss.item());
    double ab = 0, aa = 0, bb = 0;
    for (size_t i = 0; i < a.gradients.size(); ++i) {
      ab += dot(a.gradients[i], b.gradients[i]);
      aa += dot(a.gradients[i], a.gradients[i]);
      bb += dot(b.gradients[i], b.gradients[i]);
    }
    EXPECT_GT(ab / std::sqrt(aa * bb), 0.95) << experiments_of(c);
  }
}

TEST(Experiments, DecodingEqualsTheForwardPass) {
  for (const ModelConfig& c : all()) {
    const Model model = random_model(c);
    const i64 seq = 11;
    const Tensor ids = random_ids({1, seq}, c.vocab_size), flat = ids.reshape({seq});
    const Tensor full = logits_of(model, ids);
    KvCache cache(c, seq, DType::f64);
    EXPECT_LT(largest_difference(model.decode(flat.rows(0, 4), cache), full.rows(3, 4)), 1e-10)
        << experiments_of(c);
    for (i64 t = 4; t < seq; ++t) {
      const Tensor logits = model.decode(flat.rows(t, t + 1), cache);
      EXPECT_LT(largest_difference(logits, full.rows(t, t + 1)), 1e-10) << experiments_of(c);
    }
  }
}

TEST(Experiments, TrainInMixedPrecisionToo) {
  for (const ModelConfig& c : all()) {
    Model plain = random_model(c, DType::f32, 0.1), mixed = random_model(c, DType::bf16, 0.1);
    const Tensor ids = random_ids({2, 8}, c.vocab_size);
    EXPECT_NEAR(step_of(mixed, ids).loss.item(), step_of(plain, ids).loss.item(), 0.05)
        << experiments_of(c);
    KvCache cache(c, 8, DType::bf16);
    EXPECT_EQ(mixed.decode(ids.rows(0, 1).reshape({8}), cache).numel(), c.vocab_size);
  }
}

TEST(Experiments, RecomputingLeavesTheSameGradients) {
  for (const ModelConfig& c : all()) {
    Model model = random_model(c);
    const Tensor ids = random_ids({2, 6}, c.vocab_size);
    const Step plain = step_of(model, ids), again = step_of(model, ids, {.recompute = true});
    for (size_t i = 0; i < plain.gradients.size(); ++i) {
      EXPECT_TRUE(same_bits(plain.gradients[i], again.gradients[i])) << experiments_of(c);
    }
  }
}

// Latents of nothing leave the router nothing to tell experts apart by.
TEST(Experiments, TheRouterReadsTheLatents) {
  Model model = random_model(by_latent(toy_config()));
  EXPECT_EQ(model.layers[1].moe->router.gate.weight.value.shape().str(), "[8, 7]");
  std::get<Mla>(model.layers[1].self_attn).kv_a_layernorm.weight.value.fill(0);
  Tape silent(false);
  const ModelOutput out = model.forward(silent, random_ids({1, 5}, 53), {}, {.trace = true});
  for (const double w : out.router[0].weights.span<double>()) EXPECT_NEAR(w, 1.0 / 8, 1e-12);
}

TEST(Experiments, TheFfnOfAParallelBlockDoesNotSeeAttention) {
  Model model = random_model(parallel(toy_config()));
  const Tensor ids = random_ids({1, 7}, 53);
  Tape silent(false);
  const ModelOutput a = model.forward(silent, ids, {}, {.trace = true});
  std::get<Mla>(model.layers[0].self_attn).o_proj.weight.value.fill(0);
  const ModelOutput b = model.forward(silent, ids, {}, {.trace = true});
  EXPECT_TRUE(same_bits(a.trace[0].mlp_out, b.trace[0].mlp_out));
  EXPECT_FALSE(same_bits(a.trace[0].attn_out, b.trace[0].attn_out));
  EXPECT_FALSE(same_bits(a.trace[1].hidden, b.trace[1].hidden));
}

TEST(Experiments, SlotsDoNotTellOfOtherTokens) {
  const Model model = random_model(with_slots(toy_config()));
  const Tensor ids = random_ids({1, 6}, 53), other = ids.clone();
  other.data<i32>()[0] = (other.data<i32>()[0] + 1) % 53;
  const Tensor a = logits_of(model, ids), b = logits_of(model, other);
  EXPECT_GT(largest_difference(a.rows(0, 1), b.rows(0, 1)), 1e-3);
  EXPECT_LT(largest_difference(a.rows(1, 6), b.rows(1, 6)), 1e-12);
  EXPECT_EQ(cache_elements_per_token(model.config), 0);
}

// What is said to be held is what is held.
TEST(Experiments, CachesHaveTheBytesThatAreTold) {
  for (const i64 bits : {0, 4, 6, 8}) {
    const ModelConfig c = with_latent_bits(toy_config(), bits);
    const KvCache cache(c, 10, DType::f32);
    i64 bytes = 0;
    for (const KvCache::Layer& layer : cache.layers) {
      bytes += i64(layer.packed.size()) + i64(layer.k_rope.bytes().size());
      if (layer.latent.defined()) bytes += i64(layer.latent.bytes().size());
    }
    EXPECT_EQ(bytes, 10 * cache_bytes_per_token(c)) << bits;
  }
  ModelConfig v2;
  v2.num_hidden_layers = 60;
  v2.kv_lora_rank = 512;
  v2.qk_rope_head_dim = 64;
  v2.latent_bits = 6;
  EXPECT_EQ(cache_bytes_per_token(v2), 60 * (512 * 6 / 8 + 8 * 4 + 64 * 2));
}

TEST(Experiments, RefuseWhatDoesNotFitTogether) {
  const auto sentence = [](ModelConfig c) -> std::string {
    try {
      validate(c);
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(sentence(by_latent(with_attention(toy_config(), "mha"))),
            "model.router_input: expected hidden when attention is mha, got kv_latent");
  ModelConfig c = by_latent(toy_config());
  c.topk_method = "hash";
  c.num_experts_per_tok = 1;
  c.aux_loss_alpha = 0;
  EXPECT_EQ(sentence(c),
            "model.router_input: expected hidden where no router reads anything, got kv_latent");
  EXPECT_EQ(sentence(with_latent_bits(toy_config(), 5)),
            "model.latent_bits: expected 0, 4, 6 or 8, got 5");
  EXPECT_EQ(sentence(with_latent_bits(with_attention(toy_config(), "gqa"), 4)),
            "model.latent_bits: expected 0 when attention is gqa, got 4 (only MLA has latents)");
  EXPECT_EQ(sentence(fp8(with_latent_bits(toy_config(), 4))),
            "model.latent_bits: expected 0 with fp8_operands, got 4 (they would be rounded twice)");
  c = toy_config();
  c.num_attention_slots = 3;
  EXPECT_EQ(sentence(c),
            "model.num_attention_slots: expected 0 when attention is mla, got 3 (they need "
            "attention: \"slots\")");
  c = with_slots(toy_config());
  c.num_attention_slots = 0;
  EXPECT_EQ(sentence(c),
            "model.num_attention_slots: expected 1 to 65536, got 0 (as in num_attention_slots: "
            "64)");
  EXPECT_EQ(sentence(with_slots(with_yarn(toy_config()))),
            "model.rope_scaling: means nothing when attention is slots (they have no positions)");
}

}  // namespace
}  // namespace quern
