// SPDX-License-Identifier: MIT
#include "quern/layers/moe.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "quern/autograd/gradcheck.h"
#include "quern/layers/block.h"
#include "tests/support/toy_model.h"

namespace quern {
namespace {

using namespace testing;

Moe random_moe(const ModelConfig& config) {
  Moe moe(config, "mlp", DType::f64);
  randomise(moe);
  moe.router.visit_buffers(
      [](const std::string& name, const Tensor& bias) { fill_normal(bias, Random(4, name), 0.1); });
  return moe;
}

MoeOutput run(const Moe& moe, const Tensor& x, i64 sequences = 1) {
  Tape silent(false);
  return moe.forward(silent, Var(x), {.sequences = sequences, .token_ids = {}, .step = {}});
}

void expect_right_gradients(const ModelConfig& config) {
  Moe moe = random_moe(config);
  const Tensor x = random_tensor({12, config.hidden_size});
  const auto scalar = [&](Tape& tape, const Var& in) {
    const MoeOutput out = moe.forward(tape, in, {.sequences = 3, .token_ids = {}, .step = {}});
    return ops::add(tape, weighted_sum(tape, out.y), ops::scale(tape, out.aux_loss, 10));
  };
  const GradcheckReport inputs =
      gradcheck([&](Tape& tape, std::vector<Var>& in) { return scalar(tape, in[0]); }, {x});
  EXPECT_LT(inputs.worst, 1e-6) << inputs.detail;
  const GradcheckReport weights =
      gradcheck_parameters([&](Tape& tape) { return scalar(tape, Var(x)); }, parameters_of(moe), 3);
  EXPECT_LT(weights.worst, 1e-6) << weights.detail;
}

TEST(Moe, GradientsGreedy) { expect_right_gradients(toy_config()); }

TEST(Moe, GradientsGroupLimitedAndScaled) { expect_right_gradients(group_limited(toy_config())); }

TEST(Moe, GradientsNormalised) { expect_right_gradients(normalised(toy_config())); }

TEST(Moe, GradientsOfTheThirdGeneration) { expect_right_gradients(noaux_tc(toy_config())); }

TEST(Moe, GradientsOfAllBalanceLosses) {
  ModelConfig c = group_limited(toy_config());
  c.device_aux_loss_alpha = 0.3;
  c.communication_aux_loss_alpha = 0.2;
  expect_right_gradients(c);
}

// Greedy choices go where they like, and are still balanced over groups.
TEST(Moe, GreedyChoicesAreBalancedOverGroups) {
  ModelConfig c = toy_config();
  const Tensor x = random_tensor({24, c.hidden_size});
  const MoeOutput plain = run(random_moe(c), x, 2);
  c.n_group = 4;
  c.topk_group = 2;
  c.device_aux_loss_alpha = 0.3;
  validate(c);
  const MoeOutput balanced = run(random_moe(c), x, 2);
  EXPECT_EQ(largest_difference(plain.y.value(), balanced.y.value()), 0);
  EXPECT_GT(balanced.stats.aux_loss, plain.stats.aux_loss + 0.1);
}

TEST(Moe, GradientsWithoutSharedExperts) {
  ModelConfig c = group_limited(normalised(toy_config()));
  c.n_shared_experts = 0;
  expect_right_gradients(c);
}

// Slices are visited as gate_proj, up_proj and down_proj of each expert in turn.
Tensor expert_output(const Moe& moe, i64 expert, const Tensor& token) {
  const Tensor gate = moe.slices[size_t(3 * expert)].value;
  const Tensor up = moe.slices[size_t(3 * expert + 1)].value;
  const Tensor down = moe.slices[size_t(3 * expert + 2)].value;
  const i64 width = gate.dim(0), hidden = gate.dim(1);
  const double* x = token.data<double>();
  std::vector<double> inner(size_t(width), 0.0);
  for (i64 w = 0; w < width; ++w) {
    double g = 0, u = 0;
    for (i64 h = 0; h < hidden; ++h) {
      g += gate.data<double>()[w * hidden + h] * x[h];
      u += up.data<double>()[w * hidden + h] * x[h];
    }
    inner[size_t(w)] = g / (1 + std::exp(-g)) * u;
  }
  const Tensor y = Tensor::zeros({hidden}, DType::f64);
  for (i64 h = 0; h < hidden; ++h) {
    for (i64 w = 0; w < width; ++w) {
      y.data<double>()[h] += down.data<double>()[h * width + w] * inner[size_t(w)];
    }
  }
  return y;
}

TEST(Moe, EqualsALoopOverTokensAndTheirExperts) {
  for (const ModelConfig& base :
       {toy_config(), group_limited(toy_config()), noaux_tc(toy_config())}) {
    ModelConfig c = base;
    c.n_shared_experts = 0;
    const Moe moe = random_moe(c);
    const i64 tokens = 40, hidden = c.hidden_size, top_k = c.num_experts_per_tok;
    const Tensor x = random_tensor({tokens, hidden});
    const MoeOutput out = run(moe, x);
    const Tensor expected = Tensor::zeros({tokens, hidden}, DType::f64);
    for (i64 s = 0; s < tokens * top_k; ++s) {
      const i64 t = s / top_k;
      const Tensor y = expert_output(moe, out.stats.expert_ids.data<i32>()[s], x.rows(t, t + 1));
      for (i64 h = 0; h < hidden; ++h) {
        expected.data<double>()[t * hidden + h] +=
            out.stats.weights.data<double>()[s] * y.data<double>()[h];
      }
    }
    EXPECT_LT(largest_difference(out.y.value(), expected), 1e-11);
  }
}

TEST(Moe, LikeOneExpertWhenAllAreEqualAndWeightsSumToOne) {
  ModelConfig c = normalised(toy_config());
  c.n_shared_experts = 0;
  Moe moe = random_moe(c);
  for (size_t i = 3; i < moe.slices.size(); ++i) {
    moe.slices[i].value.copy_from(moe.slices[i % 3].value);
  }
  const Tensor x = random_tensor({30, c.hidden_size});
  const Tensor y = run(moe, x).y.value();
  for (i64 t = 0; t < 30; ++t) {
    const Tensor one = expert_output(moe, 0, x.rows(t, t + 1));
    EXPECT_LT(largest_difference(y.rows(t, t + 1), one), 1e-12) << t;
  }
}

TEST(Moe, AddsSharedExpertsUnweighted) {
  const Moe with = random_moe(toy_config());
  ModelConfig c = toy_config();
  c.n_shared_experts = 0;
  const Moe without = random_moe(c);  // the same weights: they depend on names
  const Tensor x = random_tensor({9, c.hidden_size});
  Tape silent(false);
  const Var sum = ops::add(silent, run(without, x).y, with.shared_experts->forward(silent, Var(x)));
  EXPECT_EQ(largest_difference(run(with, x).y.value(), sum.value()), 0);
}

TEST(Moe, NormalisedWeightsAreNotScaled) {
  ModelConfig c = normalised(toy_config());
  c.routed_scaling_factor = 5;
  const Tensor x = random_tensor({9, c.hidden_size});
  const Tensor w = run(random_moe(c), x).stats.weights;
  for (i64 t = 0; t < 9; ++t) {
    const auto row = w.rows(t, t + 1).span<double>();
    EXPECT_NEAR(std::accumulate(row.begin(), row.end(), 0.0), 1, 1e-12);
  }
}

// DeepSeek-V3, arXiv:2412.19437, eqs. 12-20, written down token by token.
TEST(Moe, TheThirdGenerationIsAsPublished) {
  const ModelConfig c = noaux_tc(toy_config());
  const Moe moe = random_moe(c);
  const i64 tokens = 24, seq = 12, experts = c.n_routed_experts, top_k = c.num_experts_per_tok;
  const MoeOutput out = run(moe, random_tensor({tokens, c.hidden_size}), tokens / seq);
  const double* logits = out.stats.logits.data<double>();
  const double* bias = moe.router.choice.bias.data<double>();
  double loss = 0;
  i64 steered = 0;  // tokens whose choice the bias has changed
  std::vector<double> f(size_t(experts), 0), p(size_t(experts), 0);
  for (i64 t = 0; t < tokens; ++t) {
    std::vector<double> s(static_cast<size_t>(experts));
    for (i64 e = 0; e < experts; ++e) s[size_t(e)] = 1 / (1 + std::exp(-logits[t * experts + e]));
    const double row = std::accumulate(s.begin(), s.end(), 0.0);
    double chosen_sum = 0;
    std::set<i32> chosen;
    for (i64 k = 0; k < top_k; ++k) {
      const i32 e = out.stats.expert_ids.data<i32>()[t * top_k + k];
      chosen.insert(e);
      chosen_sum += s[size_t(e)];
    }
    for (i64 k = 0; k < top_k; ++k) {
      const i32 e = out.stats.expert_ids.data<i32>()[t * top_k + k];
      EXPECT_NEAR(out.stats.weights.data<double>()[t * top_k + k],
                  c.routed_scaling_factor * s[size_t(e)] / chosen_sum, 1e-12);
    }
    // Within the two groups of the largest sums, no other expert has a larger biased score.
    std::vector<std::pair<double, i32>> groups;
    for (i32 g = 0; g < 4; ++g) {
      groups.push_back(
          {s[size_t(2 * g)] + bias[2 * g] + s[size_t(2 * g + 1)] + bias[2 * g + 1], g});
    }
    std::sort(groups.rbegin(), groups.rend());
    double worst_in = 1e9, best_out = -1e9;
    for (i32 e = 0; e < experts; ++e) {
      const bool allowed = e / 2 == groups[0].second || e / 2 == groups[1].second;
      EXPECT_TRUE(allowed || !chosen.contains(e));
      const double biased = s[size_t(e)] + bias[e];
      if (chosen.contains(e)) worst_in = std::min(worst_in, biased);
      if (allowed && !chosen.contains(e)) best_out = std::max(best_out, biased);
    }
    EXPECT_GT(worst_in, best_out);
    std::vector<i32> order(static_cast<size_t>(experts));
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(),
              [&](i32 a, i32 b) { return s[size_t(a)] > s[size_t(b)]; });
    for (i64 k = 0; k < top_k; ++k) f[size_t(order[size_t(k)])] += 1;
    steered += std::set<i32>(order.begin(), order.begin() + top_k) != chosen;
    for (i64 e = 0; e < experts; ++e) p[size_t(e)] += s[size_t(e)] / row;
    if (t % seq == seq - 1) {
      for (i64 e = 0; e < experts; ++e) {
        loss += f[size_t(e)] * double(experts) / double(top_k * seq) * p[size_t(e)] / double(seq);
        f[size_t(e)] = p[size_t(e)] = 0;
      }
    }
  }
  EXPECT_GT(steered, 0);
  EXPECT_NEAR(out.stats.aux_loss, c.aux_loss_alpha * loss / double(tokens / seq), 1e-12);
}

TEST(Moe, TheBiasFollowsTheLoad) {
  ModelConfig c = noaux_tc(toy_config());
  c.router_bias_update_rate = 0.25;
  Moe moe(c, "mlp", DType::f32);
  moe.router.update_bias({3, 5, 4, 4, 0, 8, 4, 4});  // the mean is 4
  moe.router.update_bias({3, 4, 5, 4, 0, 8, 4, 4});
  const auto bias = moe.router.choice.bias.span<float>();
  EXPECT_EQ(std::vector<float>(bias.begin(), bias.end()),
            (std::vector<float>{0.5f, -0.25f, -0.25f, 0, 0.5f, -0.5f, 0, 0}));
  Moe other(toy_config(), "mlp", DType::f32);
  other.router.update_bias({3, 5, 4, 4, 0, 8, 4, 4});
  EXPECT_FALSE(other.router.choice.bias.defined());
}

TEST(Moe, LoadCountsEveryChoice) {
  const ModelConfig c = toy_config();
  const Tensor x = random_tensor({50, c.hidden_size});
  const RouterStats stats = run(random_moe(c), x).stats;
  std::vector<i64> counted(size_t(c.n_routed_experts), 0);
  for (const i32 e : stats.expert_ids.span<i32>()) ++counted[size_t(e)];
  EXPECT_EQ(stats.load, counted);
  EXPECT_EQ(std::accumulate(counted.begin(), counted.end(), i64{0}), 50 * c.num_experts_per_tok);
}

TEST(Moe, BalanceLossIsAMeanOverSequences) {
  const Moe moe = random_moe(toy_config());
  const Tensor x = random_tensor({48, moe.router.gate.weight.value.dim(1)});
  double sum = 0;
  for (i64 s = 0; s < 4; ++s) sum += run(moe, x.rows(12 * s, 12 * s + 12)).stats.aux_loss;
  EXPECT_NEAR(run(moe, x, 4).stats.aux_loss, sum / 4, 1e-15);
  EXPECT_GT(std::abs(run(moe, x, 1).stats.aux_loss - sum / 4), 1e-4);  // the batch as one
  // Two half batches average to the whole, so accumulated gradients are those of one batch.
  EXPECT_NEAR(
      run(moe, x, 4).stats.aux_loss,
      (run(moe, x.rows(0, 24), 2).stats.aux_loss + run(moe, x.rows(24, 48), 2).stats.aux_loss) / 2,
      1e-15);
}

TEST(Moe, BalanceLossPerBatchIgnoresSequences) {
  const Moe moe = random_moe(group_limited(toy_config()));
  const Tensor x = random_tensor({24, moe.router.gate.weight.value.dim(1)});
  EXPECT_EQ(run(moe, x, 4).stats.aux_loss, run(moe, x, 1).stats.aux_loss);
}

TEST(Moe, AnExpertWithoutTokensHasNoGradient) {
  Moe moe = random_moe(toy_config());
  for (Parameter* p : parameters_of(moe)) p->grad.fill(7);  // stale
  Tape tape;
  const MoeOutput out = moe.forward(tape, Var(random_tensor({1, 20})), {});
  tape.backward(weighted_sum(tape, out.y));
  i64 idle = 0;
  for (size_t e = 0; e < out.stats.load.size(); ++e) {
    if (out.stats.load[e] > 0) continue;
    ++idle;
    for (size_t i = 3 * e; i < 3 * e + 3; ++i) {
      for (const double g : moe.slices[i].grad.span<double>())
        ASSERT_EQ(g, 0) << moe.slices[i].name;
    }
  }
  EXPECT_EQ(idle, 5);
}

void expect_right_block_gradients(const ModelConfig& config, i64 index) {
  Block block(config, index, DType::f64);
  randomise(block);
  const AttentionContext context = context_for(config, 2, 5);
  const Tensor x = random_tensor({10, config.hidden_size});
  const auto scalar = [&](Tape& tape, const Var& in) {
    const BlockOutput out =
        block.forward(tape, in, context, {.sequences = 2, .token_ids = {}, .step = {}});
    return ops::add(tape, weighted_sum(tape, out.y), out.aux_loss);
  };
  const GradcheckReport inputs =
      gradcheck([&](Tape& tape, std::vector<Var>& in) { return scalar(tape, in[0]); }, {x});
  EXPECT_LT(inputs.worst, 1e-6) << inputs.detail;
  const GradcheckReport weights = gradcheck_parameters(
      [&](Tape& tape) { return scalar(tape, Var(x)); }, parameters_of(block), 2);
  EXPECT_LT(weights.worst, 1e-6) << weights.detail;
}

TEST(Block, GradientsOfADenseLayer) { expect_right_block_gradients(toy_config(), 0); }

TEST(Block, GradientsOfAMoeLayer) {
  expect_right_block_gradients(with_q_lora(with_yarn(group_limited(toy_config()))), 1);
}

}  // namespace
}  // namespace quern
