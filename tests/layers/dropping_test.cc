// SPDX-License-Identifier: MIT
// Routers that drop copies, look experts up in a table, or let experts choose: whole MoE layers
// against a loop over the copies that are left, and models that use them.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "quern/autograd/gradcheck.h"
#include "quern/layers/model.h"
#include "tests/support/toy_model.h"

namespace quern {
namespace {

using namespace testing;

constexpr i64 kTokens = 24, kSequences = 4;

ModelConfig plain() {
  ModelConfig c = toy_config();
  c.n_shared_experts = 0;
  return c;
}

ModelConfig by_position() {
  ModelConfig c = plain();
  c.capacity_factor = 0.7;
  return c;
}

ModelConfig by_probability() {
  ModelConfig c = by_position();
  c.capacity_drop = "probability";
  return c;
}

ModelConfig by_device() {
  ModelConfig c = group_limited(plain());
  c.device_capacity_factor = 0.7;
  return c;
}

ModelConfig switch_router() {
  ModelConfig c = by_position();
  c.num_experts_per_tok = 1;
  return c;
}

ModelConfig gshard() {
  ModelConfig c = normalised(by_position());
  c.num_experts_per_tok = 2;
  return c;
}

ModelConfig hash() {
  ModelConfig c = plain();
  c.topk_method = "hash";
  c.num_experts_per_tok = 1;
  c.aux_loss_alpha = 0;
  return c;
}

ModelConfig expert_choice() {
  ModelConfig c = plain();
  c.topk_method = "expert_choice";
  c.aux_loss_alpha = 0;
  return c;
}

std::vector<std::pair<const char*, ModelConfig>> all() {
  return {{"position", by_position()},
          {"probability", by_probability()},
          {"device", by_device()},
          {"switch", switch_router()},
          {"gshard", gshard()},
          {"third generation", noaux_tc(by_probability())},
          {"hash", hash()},
          {"expert choice", expert_choice()}};
}

Moe random_moe(const ModelConfig& config) {
  validate(config);
  Moe moe(config, "mlp", DType::f64);
  randomise(moe);
  return moe;
}

RoutingContext training(i64 first_sample = 0) {
  return {.sequences = kSequences,
          .token_ids = random_ids({kTokens}, toy_config().vocab_size),
          .step = RouterStep{7, first_sample, {}}};
}

RoutingContext evaluation() {
  RoutingContext context = training();
  context.step.reset();
  return context;
}

Routing route(const Router& router, const Tensor& x, const RoutingContext& context) {
  Tape silent(false);
  return router.route(silent, Var(x), context);
}

Tensor output(const Moe& moe, const Tensor& x, const RoutingContext& context) {
  Tape silent(false);
  return moe.forward(silent, Var(x), context).y.value();
}

// weight * the output of one expert for one token, added to y.
void add_expert(const Moe& moe, i64 expert, double weight, const Tensor& token, double* y) {
  const Tensor gate = moe.slices[size_t(3 * expert)].value;
  const Tensor up = moe.slices[size_t(3 * expert + 1)].value;
  const Tensor down = moe.slices[size_t(3 * expert + 2)].value;
  const i64 width = gate.dim(0), hidden = gate.dim(1);
  const double* x = token.data<double>();
  for (i64 w = 0; w < width; ++w) {
    const double g = std::inner_product(x, x + hidden, gate.data<double>() + w * hidden, 0.0);
    const double u = std::inner_product(x, x + hidden, up.data<double>() + w * hidden, 0.0);
    for (i64 h = 0; h < hidden; ++h) {
      y[h] += weight * g / (1 + std::exp(-g)) * u * down.data<double>()[h * width + w];
    }
  }
}

TEST(Dropping, EqualsALoopOverTheCopiesThatAreLeft) {
  for (const auto& [name, c] : all()) {
    SCOPED_TRACE(name);
    const Moe moe = random_moe(c);
    const Tensor x = random_tensor({kTokens, c.hidden_size});
    const Routing routing = route(moe.router, x, training());
    const i64 slots = routing.sent.dim(1);
    const Tensor expected = Tensor::zeros({kTokens, c.hidden_size}, DType::f64);
    i64 sent = 0, chosen = 0;
    for (i64 s = 0; s < kTokens * slots; ++s) {
      const i64 t = s / slots;
      const i32 e = routing.sent.data<i32>()[s], choice = routing.stats.expert_ids.data<i32>()[s];
      EXPECT_TRUE(e == choice || e == -1);
      chosen += choice >= 0;
      if (e < 0) continue;
      ++sent;
      add_expert(moe, e, routing.weights.value().data<double>()[s], x.rows(t, t + 1),
                 expected.data<double>() + t * c.hidden_size);
    }
    EXPECT_LT(largest_difference(output(moe, x, training()), expected), 1e-11);
    EXPECT_EQ(sent<chosen, c.capacity_factor> 0 || c.device_capacity_factor > 0);
    EXPECT_NEAR(routing.stats.figures.dropped, double(chosen - sent) / double(chosen), 1e-15);
    EXPECT_EQ(std::accumulate(routing.stats.load.begin(), routing.stats.load.end(), i64{0}),
              chosen);
  }
}

TEST(Dropping, Gradients) {
  for (const auto& [name, c] : all()) {
    SCOPED_TRACE(name);
    Moe moe = random_moe(c);
    const Tensor x = random_tensor({kTokens / 2, c.hidden_size});
    RoutingContext context = training();
    context.token_ids = context.token_ids.rows(0, kTokens / 2);
    const auto scalar = [&](Tape& tape, const Var& in) {
      const MoeOutput out = moe.forward(tape, in, context);
      return ops::add(tape, weighted_sum(tape, out.y), ops::scale(tape, out.aux_loss, 10));
    };
    const GradcheckReport inputs =
        gradcheck([&](Tape& tape, std::vector<Var>& in) { return scalar(tape, in[0]); }, {x});
    EXPECT_LT(inputs.worst, 1e-6) << inputs.detail;
    const GradcheckReport weights = gradcheck_parameters(
        [&](Tape& tape) { return scalar(tape, Var(x)); }, parameters_of(moe), 5);
    EXPECT_LT(weights.worst, 1e-6) << weights.detail;
  }
}

TEST(Dropping, ATokenWithoutAnyCopyAddsNothingAndLearnsNothing) {
  ModelConfig c = switch_router();
  c.aux_loss_alpha = 0;
  c.capacity_factor = 0.3;
  const Moe moe = random_moe(c);
  Tape tape;
  const Var x = tape.input(random_tensor({kTokens, c.hidden_size}));
  const MoeOutput out = moe.forward(tape, x, training());
  tape.backward(weighted_sum(tape, out.y));
  const Tensor sent = route(moe.router, x.value(), training()).sent, dx = tape.grad(x);
  i64 without = 0;
  for (i64 t = 0; t < kTokens; ++t) {
    const bool dropped = sent.data<i32>()[t] < 0;
    without += dropped;
    for (const Tensor& rows : {out.y.value(), dx}) {
      for (const double v : rows.rows(t, t + 1).span<double>()) EXPECT_EQ(v == 0, dropped);
    }
  }
  EXPECT_GT(without, kTokens / 2);
  EXPECT_LT(without, kTokens);
}

// Room is for an even share times the factor, rounded up.
TEST(Dropping, NoExpertTakesMoreThanItsCapacity) {
  for (const auto& [factor, room] : {std::pair(0.5, 5), {1.0, 9}, {1.01, 10}, {0.001, 1}}) {
    ModelConfig c = by_position();  // 24 tokens * 3 choices / 8 experts = 9
    c.capacity_factor = factor;
    const Routing out =
        route(random_moe(c).router, random_tensor({kTokens, c.hidden_size}), training());
    std::vector<i64> taken(8, 0);
    for (const i32 e : out.sent.span<i32>()) {
      if (e >= 0) ++taken[size_t(e)];
    }
    for (size_t e = 0; e < 8; ++e) EXPECT_EQ(taken[e], std::min<i64>(room, out.stats.load[e]));
  }
}

// One sequence in ten loses nothing, the same one in all layers and however the step is cut.
TEST(Dropping, DevicesSpareTheSameSequencesEverywhere) {
  ModelConfig c = by_device();
  c.device_capacity_factor = 0.01;
  const i64 sequences = 400;
  const Tensor x = random_tensor({sequences * 2, c.hidden_size});
  const auto whole_sequences = [&](const std::string& name, i64 cut) {
    Router router(c, name, DType::f64);
    randomise(router);
    std::vector<i64> whole;
    for (i64 first = 0; first < sequences; first += cut) {
      const RoutingContext context{
          .sequences = cut, .token_ids = {}, .step = RouterStep{3, first, {}}};
      const Tensor sent = route(router, x.rows(2 * first, 2 * (first + cut)), context).sent;
      for (i64 s = 0; s < cut; ++s) {
        const auto ids = sent.rows(2 * s, 2 * s + 2).span<i32>();
        if (std::ranges::count(ids, -1) == 0) whole.push_back(first + s);
      }
    }
    return whole;
  };
  const std::vector<i64> whole = whole_sequences("one", sequences);
  EXPECT_GT(whole.size(), 20u);
  EXPECT_LT(whole.size(), 65u);
  EXPECT_EQ(whole_sequences("another", sequences), whole);
  // Of a small batch more finds room: each part has at least one copy for each device.
  const std::vector<i64> cut = whole_sequences("one", sequences / 4);
  EXPECT_TRUE(std::ranges::includes(cut, whole));
}

TEST(Dropping, IsForTrainingAlone) {
  for (const auto& [name, c] : all()) {
    SCOPED_TRACE(name);
    ModelConfig free = c;
    free.capacity_factor = free.device_capacity_factor = 0;
    if (free.topk_method == "expert_choice") free.topk_method = "greedy";
    const Tensor x = random_tensor({kTokens, c.hidden_size});
    const Moe moe = random_moe(c);
    EXPECT_TRUE(same_bits(output(moe, x, evaluation()), output(random_moe(free), x, evaluation())));
    if (c.topk_method == "hash") continue;
    EXPECT_FALSE(same_bits(output(moe, x, evaluation()), output(moe, x, training())));
  }
}

TEST(Hash, SendsATokenWhereItsIdBelongs) {
  const Moe moe = random_moe(hash());
  const RoutingContext context = training();
  const Tensor one = random_tensor({kTokens, 20}),
               other = random_tensor({kTokens, 20}, DType::f64, 2);
  const Routing a = route(moe.router, one, context), b = route(moe.router, other, context);
  EXPECT_TRUE(same_bits(a.sent, b.sent));
  std::vector<i64> count(8, 0);
  for (i64 id = 0; id < 53; ++id) ++count[size_t(moe.router.table.data<i32>()[id])];
  EXPECT_EQ(*std::ranges::min_element(count), 6);
  EXPECT_EQ(*std::ranges::max_element(count), 7);
  for (i64 t = 0; t < kTokens; ++t) {
    EXPECT_EQ(a.sent.data<i32>()[t],
              moe.router.table.data<i32>()[context.token_ids.data<i32>()[t]]);
    EXPECT_EQ(a.weights.value().data<double>()[t], 1);
  }
  EXPECT_EQ(a.aux_loss.item(), 0);
}

// The table is a matter of the layer's name: the same in every run and on every machine.
TEST(Hash, TheTableStaysAsItIs) {
  const Router one(hash(), "model.layers.1.mlp.gate", DType::f32);
  const auto begin = one.table.span<i32>().first(12);
  EXPECT_EQ(std::vector<i32>(begin.begin(), begin.end()),
            (std::vector<i32>{3, 7, 0, 2, 0, 6, 0, 2, 3, 7, 0, 6}));
  const Router two(hash(), "model.layers.2.mlp.gate", DType::f32);
  EXPECT_FALSE(same_bits(one.table, two.table));
}

TEST(Hash, HasNoRouterParameters) {
  Model model(hash(), DType::f32);
  i64 total = 0;
  model.visit([&](Parameter& p) {
    total += p.value.numel();
    EXPECT_NE(p.kind, ParamKind::router) << p.name;
  });
  EXPECT_EQ(total, count_parameters(model.config).total);
  EXPECT_EQ(count_parameters(model.config).router, 0);
}

// In training every expert is as busy as every other; a token may have any number of them.
TEST(ExpertChoice, IsEvenByConstruction) {
  const Routing out =
      route(random_moe(expert_choice()).router, random_tensor({kTokens, 20}), training());
  EXPECT_EQ(out.stats.load, std::vector<i64>(8, 9));
  EXPECT_EQ(out.stats.figures.dropped, 0);
}

// With products of rounded operands everything else is as it was; choices may tip.
TEST(Dropping, ModelsOfRoundedOperandsAreNearlyTheSame) {
  for (const auto& [name, c] : all()) {
    SCOPED_TRACE(name);
    double loss[2];
    for (const DType dtype : {DType::f32, DType::bf16}) {
      Model model(c, dtype);
      randomise(model, 0.05);
      const TrainingStep step{7, 0, {}};
      Tape tape;
      const ModelOutput out =
          model.forward(tape, random_ids({3, 9}, c.vocab_size), {}, {.step = &step});
      const Var nll = ops::linear_cross_entropy(tape, out.hidden, tape.parameter(model.head()),
                                                random_ids({27}, c.vocab_size, 2), 1.0 / 27)
                          .loss;
      tape.backward(ops::add(tape, nll, out.aux_loss));
      loss[dtype == DType::bf16] = nll.item();
    }
    EXPECT_NEAR(loss[0], loss[1], 0.02);
    EXPECT_NE(loss[0], loss[1]);
  }
}

// What is generated token by token is what the whole text gives, and nobody minds the neighbours.
TEST(Dropping, ModelsDecodeAsTheyRead) {
  for (const auto& [name, c] : all()) {
    SCOPED_TRACE(name);
    Model model(c, DType::f64);
    randomise(model);
    const Tensor ids = random_ids({3, 9}, c.vocab_size);
    const Tensor logits = logits_of(model, ids);
    for (i64 s = 0; s < 3; ++s) {
      const Tensor sequence = ids.rows(s, s + 1);
      EXPECT_LT(largest_difference(logits.rows(9 * s, 9 * s + 9), logits_of(model, sequence)),
                1e-12);
      KvCache cache(c, 9, DType::f64);
      for (i64 t = 0; t < 9; ++t) {
        const Tensor next = model.decode(sequence.reshape({9}).rows(t, t + 1), cache);
        EXPECT_LT(largest_difference(next, logits.rows(9 * s + t, 9 * s + t + 1)), 1e-10);
      }
    }
  }
}

}  // namespace
}  // namespace quern
