// SPDX-License-Identifier: MIT
// Routers against loops that follow the papers, and what they may depend on.
#include "quern/layers/router.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "quern/autograd/gradcheck.h"
#include "tests/support/toy_model.h"

namespace quern {
namespace {

using namespace testing;

constexpr i64 kTokens = 24, kSequences = 2;

Router random_router(const ModelConfig& config, const std::string& name = "gate") {
  validate(config);
  Router router(config, name, DType::f64);
  randomise(router);
  return router;
}

Routing route(const Router& router, const Tensor& x, const RoutingContext& context = {}) {
  Tape silent(false);
  return router.route(silent, Var(x), context);
}

RoutingContext training(i64 sequences, i64 first_sample = 0, std::uint64_t seed = 7) {
  return {.sequences = sequences, .token_ids = {}, .step = RouterStep{seed, first_sample, {}}};
}

std::vector<double> softmax_of(const double* z, i64 n) {
  std::vector<double> p(static_cast<size_t>(n));
  double sum = 0;
  for (i64 i = 0; i < n; ++i) sum += p[size_t(i)] = std::exp(z[i]);
  for (double& x : p) x /= sum;
  return p;
}

double row_sum(const Tensor& t, i64 row) {
  const auto values = t.rows(row, row + 1).span<double>();
  return std::accumulate(values.begin(), values.end(), 0.0);
}

// Normalising the softmax over all experts is the softmax over the chosen logits (Mixtral,
// arXiv:2401.04088, section 2.1).
TEST(Router, NormalisedWeightsAreTheSoftmaxOfTheChosenLogits) {
  const ModelConfig c = normalised(toy_config());
  const Routing out = route(random_router(c), random_tensor({kTokens, c.hidden_size}));
  const i64 top_k = c.num_experts_per_tok;
  for (i64 t = 0; t < kTokens; ++t) {
    const double* logits = out.stats.logits.data<double>() + t * c.n_routed_experts;
    std::vector<double> chosen;
    for (i64 k = 0; k < top_k; ++k) {
      chosen.push_back(logits[out.stats.expert_ids.data<i32>()[t * top_k + k]]);
    }
    const std::vector<double> expected = softmax_of(chosen.data(), top_k);
    for (i64 k = 0; k < top_k; ++k) {
      EXPECT_NEAR(out.stats.weights.data<double>()[t * top_k + k], expected[size_t(k)], 1e-12);
    }
  }
}

TEST(Router, NormalisedWeightsAreScaledWhereTheConfigSaysSo) {
  ModelConfig c = normalised(toy_config());
  c.routed_scaling_factor = 5;
  const Tensor x = random_tensor({kTokens, c.hidden_size});
  EXPECT_NEAR(row_sum(route(random_router(c), x).stats.weights, 3), 1, 1e-12);
  c.scale_normalised_weights = true;
  EXPECT_NEAR(row_sum(route(random_router(c), x).stats.weights, 3), 5, 1e-12);
  c = noaux_tc(c);
  c.scale_normalised_weights = false;  // noaux_tc scales always
  EXPECT_NEAR(row_sum(route(random_router(c), x).stats.weights, 3), c.routed_scaling_factor, 1e-12);
}

// The losses and figures of one layer, from its logits. P is the mean of the whole softmax, taken
// once; f carries 1 / top_k.
TEST(Router, FiguresAreWhatTheLogitsSay) {
  ModelConfig c = group_limited(toy_config());
  c.device_aux_loss_alpha = 0.3;
  c.communication_aux_loss_alpha = 0.2;
  c.router_z_loss_coef = 0.01;
  const i64 experts = c.n_routed_experts, top_k = c.num_experts_per_tok, size = experts / c.n_group;
  const Routing out =
      route(random_router(c), random_tensor({kTokens, c.hidden_size}), training(kSequences));
  std::vector<double> chosen(size_t(experts), 0), p(size_t(experts), 0);
  std::vector<double> sent(size_t(c.n_group), 0);
  double z = 0, entropy = 0, weights = 0;
  for (i64 t = 0; t < kTokens; ++t) {
    const double* logits = out.stats.logits.data<double>() + t * experts;
    const std::vector<double> s = softmax_of(logits, experts);
    double total = 0;
    for (i64 e = 0; e < experts; ++e) {
      p[size_t(e)] += s[size_t(e)] / kTokens;
      entropy -= s[size_t(e)] * std::log(s[size_t(e)]) / kTokens;
      total += std::exp(logits[e]);
    }
    z += std::log(total) * std::log(total) / kTokens;
    weights += row_sum(out.stats.weights, t) / kTokens;
    for (i64 d = 0; d < c.n_group; ++d) {
      bool here = false;
      for (i64 k = 0; k < top_k; ++k) {
        const i32 e = out.stats.expert_ids.data<i32>()[t * top_k + k];
        if (d == 0) ++chosen[size_t(e)];
        here |= e / size == d;
      }
      sent[size_t(d)] += here;
    }
  }
  double expert = 0, device = 0, communication = 0;
  for (i64 e = 0; e < experts; ++e) {
    double on_device = 0;
    for (i64 i = e / size * size; i < e / size * size + size; ++i) on_device += chosen[size_t(i)];
    const double f = double(experts) / double(top_k * kTokens);
    expert += f * chosen[size_t(e)] * p[size_t(e)];
    device += f * on_device / double(size) * p[size_t(e)];
    communication +=
        double(c.n_group) / double(c.topk_group * kTokens) * sent[size_t(e / size)] * p[size_t(e)];
  }
  const RouterFigures& f = out.stats.figures;
  EXPECT_NEAR(f.expert_loss, expert, 1e-12);
  EXPECT_NEAR(f.device_loss, device, 1e-12);
  EXPECT_NEAR(f.communication_loss, communication, 1e-12);
  EXPECT_NEAR(f.z_loss, z, 1e-12);
  EXPECT_NEAR(f.gate_entropy, entropy, 1e-12);
  EXPECT_NEAR(f.weight_sum, weights, 1e-12);
  EXPECT_NEAR(f.devices, std::accumulate(sent.begin(), sent.end(), 0.0) / kTokens, 1e-12);
  EXPECT_NEAR(out.stats.aux_loss,
              c.aux_loss_alpha * expert + 0.3 * device + 0.2 * communication + 0.01 * z, 1e-12);
}

// Sigmoid scores as shares of their sum.
TEST(Router, TheEntropyOfTheThirdGeneration) {
  const ModelConfig c = noaux_tc(toy_config());
  const Routing out =
      route(random_router(c), random_tensor({kTokens, c.hidden_size}), training(kSequences));
  double entropy = 0;
  for (i64 t = 0; t < kTokens; ++t) {
    std::vector<double> s;
    for (const double z : out.stats.logits.rows(t, t + 1).span<double>()) {
      s.push_back(1 / (1 + std::exp(-z)));
    }
    const double total = std::accumulate(s.begin(), s.end(), 0.0);
    for (const double x : s) entropy -= x / total * std::log(x / total) / kTokens;
  }
  EXPECT_NEAR(out.stats.figures.gate_entropy, entropy, 1e-12);
}

// An untrained router sees all experts alike: each loss is its alpha, whoever is chosen.
TEST(Router, EvenScoresCostTheirAlphas) {
  ModelConfig c = toy_config();
  c.n_group = 4;
  c.topk_group = 2;
  c.device_aux_loss_alpha = 0.3;
  Router router = random_router(c);
  router.gate.weight.value.fill(0);
  const Routing out = route(router, random_tensor({kTokens, c.hidden_size}));
  EXPECT_NEAR(out.stats.aux_loss, c.aux_loss_alpha + 0.3, 1e-12);
  for (const i32 e : out.stats.expert_ids.span<i32>()) EXPECT_LT(e, c.num_experts_per_tok);  // ties
}

void expect_right_gradients(const ModelConfig& config, const RoutingContext& context) {
  Router router = random_router(config);
  const auto scalar = [&](Tape& tape, const Var& in) {
    const Routing out = router.route(tape, in, context);
    return ops::add(tape, weighted_sum(tape, out.weights), ops::scale(tape, out.aux_loss, 10));
  };
  const Tensor x = random_tensor({kTokens, config.hidden_size});
  const GradcheckReport inputs =
      gradcheck([&](Tape& tape, std::vector<Var>& in) { return scalar(tape, in[0]); }, {x});
  EXPECT_LT(inputs.worst, 1e-6) << inputs.detail;
  const GradcheckReport weights =
      gradcheck_parameters([&](Tape& tape) { return scalar(tape, Var(x)); }, parameters_of(router));
  EXPECT_LT(weights.worst, 1e-6) << weights.detail;
}

// The gradients of the auxiliary loss alone, of four sequences at once or one by one, each with a
// quarter's weight.
TEST(Router, AuxiliaryGradientsDoNotDependOnTheCut) {
  ModelConfig all = group_limited(toy_config());
  all.seq_aux = true;
  all.device_aux_loss_alpha = 0.3;
  all.communication_aux_loss_alpha = 0.2;
  all.router_z_loss_coef = 0.1;
  for (const ModelConfig& c : {all, noaux_tc(toy_config())}) {
    const Router router = random_router(c);
    const Tensor x = random_tensor({kTokens, c.hidden_size});
    const auto gradient = [&](i64 cut) {
      Parameter& weight = router.gate.weight;
      weight.clear_grad();
      const i64 rows = kTokens / cut;
      for (i64 part = 0; part < cut; ++part) {
        Tape tape;
        const Routing out = router.route(tape, Var(x.rows(part * rows, (part + 1) * rows)),
                                         training(4 / cut, part * 4 / cut));
        tape.backward(ops::scale(tape, out.aux_loss, 1.0 / double(cut)));
      }
      return weight.grad.clone();
    };
    const Tensor whole = gradient(1);
    EXPECT_GT(largest_difference(whole, Tensor::zeros(whole.shape(), DType::f64)), 1e-4);
    EXPECT_LT(largest_difference(whole, gradient(4)), 1e-15);
    EXPECT_LT(largest_difference(whole, gradient(2)), 1e-15);
  }
}

TEST(Router, GradientsOfTheLossOfLogits) {
  ModelConfig c = toy_config();
  c.router_z_loss_coef = 0.1;
  expect_right_gradients(c, training(kSequences));
}

TEST(Router, GradientsUnderNoise) {
  ModelConfig c = toy_config();
  c.router_jitter_noise = 0.2;
  expect_right_gradients(c, training(kSequences, 3));
}

TEST(Router, GradientsScaledAfterNormalising) {
  ModelConfig c = normalised(toy_config());
  c.routed_scaling_factor = 3;
  c.scale_normalised_weights = true;
  expect_right_gradients(c, training(kSequences));
}

TEST(Router, GradientsOfBalanceOverTheStepSoFar) {
  ModelConfig c = toy_config();
  c.balance_scope = "global_running";
  RoutingContext context = training(kSequences);
  context.step->counted = {30, {90, 0, 0, 0, 0, 0, 0, 0}, {30}};
  expect_right_gradients(c, context);
}

// Noise is a matter of the seed, the sample, the position and the layer: not of the batch around.
TEST(Router, NoiseDependsOnTheTokenAlone) {
  ModelConfig c = toy_config();
  c.router_jitter_noise = 0.1;
  const Router router = random_router(c), other = random_router(c, "gate");
  const Tensor x = random_tensor({kTokens, c.hidden_size});
  const Tensor whole = route(router, x, training(4, 10)).stats.logits;
  EXPECT_TRUE(same_bits(whole, route(other, x, training(4, 10)).stats.logits));
  const i64 half = kTokens / 2;
  for (const i64 part : {0, 1}) {
    const Tensor rows = x.rows(part * half, (part + 1) * half);
    EXPECT_TRUE(same_bits(route(router, rows, training(2, 10 + 2 * part)).stats.logits,
                          whole.rows(part * half, (part + 1) * half)));
  }
  const Tensor calm = route(router, x).stats.logits;
  EXPECT_FALSE(same_bits(whole, calm));
  EXPECT_FALSE(same_bits(whole, route(router, x, training(4, 11)).stats.logits));
  EXPECT_FALSE(same_bits(whole, route(router, x, training(4, 10, 8)).stats.logits));
  Router renamed(c, "another", DType::f64);
  renamed.gate.weight.value.copy_from(router.gate.weight.value);
  EXPECT_FALSE(same_bits(whole, route(renamed, x, training(4, 10)).stats.logits));
  c.router_jitter_noise = 0;
  EXPECT_TRUE(same_bits(calm, route(random_router(c), x, training(4, 10)).stats.logits));
}

// With a matrix of one column per expert, logits are the noisy input itself.
TEST(Router, NoiseIsEvenAroundOne) {
  ModelConfig c = toy_config();
  c.router_jitter_noise = 0.25;
  c.hidden_size = c.n_routed_experts;
  Router router(c, "gate", DType::f64);
  for (i64 e = 0; e < c.n_routed_experts; ++e) {
    router.gate.weight.value.data<double>()[e * c.hidden_size + e] = 1;
  }
  const Tensor ones = Tensor::full({1000, c.hidden_size}, DType::f64, 1);
  const Tensor logits = route(router, ones, training(1)).stats.logits;
  const auto values = logits.span<double>();
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  EXPECT_GE(*low, 0.75);
  EXPECT_LE(*high, 1.25);
  EXPECT_LT(*low, 0.752);
  EXPECT_GT(*high, 1.248);
  EXPECT_NEAR(std::accumulate(values.begin(), values.end(), 0.0) / 8000, 1, 0.005);
}

// The second half of a step is balanced against the choices of both.
TEST(Router, BalanceOverTheStepSoFar) {
  ModelConfig c = toy_config();
  c.seq_aux = false;
  const Tensor x = random_tensor({kTokens, c.hidden_size});
  const i64 half = kTokens / 2;
  const Routing whole = route(random_router(c), x);
  c.balance_scope = "global_running";
  const Router router = random_router(c);
  EXPECT_NEAR(route(router, x, training(1)).stats.aux_loss, whole.stats.aux_loss, 1e-15);
  const Routing first = route(router, x.rows(0, half), training(1));
  RoutingContext context = training(1);
  context.step->counted = first.stats.counted;
  const Routing second = route(router, x.rows(half, kTokens), context);
  double expected = 0;
  for (i64 e = 0; e < c.n_routed_experts; ++e) {
    double chosen = 0, p = 0;
    for (const i32 id : whole.stats.expert_ids.span<i32>()) chosen += id == e;
    for (i64 t = half; t < kTokens; ++t) {
      p += softmax_of(whole.stats.logits.data<double>() + t * c.n_routed_experts,
                      c.n_routed_experts)[size_t(e)] /
           double(half);
    }
    expected += chosen * double(c.n_routed_experts) / double(c.num_experts_per_tok * kTokens) * p;
  }
  EXPECT_NEAR(second.stats.aux_loss, c.aux_loss_alpha * expected, 1e-15);
}

}  // namespace
}  // namespace quern
