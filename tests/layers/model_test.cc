// SPDX-License-Identifier: MIT
#include "quern/layers/model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "quern/autograd/gradcheck.h"
#include "quern/autograd/kernels/parallel.h"
#include "tests/layers/model_step.h"

namespace quern {
namespace {

using namespace testing;

void expect_same_bits(Model& model, const Step& a, const Step& b) {
  EXPECT_TRUE(same_bits(a.loss, b.loss));
  EXPECT_EQ(a.loads, b.loads);
  const std::vector<Parameter*> parameters = parameters_of(model);
  for (size_t i = 0; i < parameters.size(); ++i) {
    EXPECT_TRUE(same_bits(a.gradients[i], b.gradients[i])) << parameters[i]->name;
  }
}

TEST(Model, ParametersHaveTheNamesOfHuggingFace) {
  ModelConfig c = toy_config();
  c.n_routed_experts = 3;
  c.first_k_dense_replace = 1;
  Model model(with_q_lora(c), DType::f32);
  std::vector<std::string> names;
  for (const Parameter* p : parameters_of(model)) names.push_back(p->name);
  std::vector<std::string> expected{"model.embed_tokens.weight"};
  for (const std::string layer : {"model.layers.0.", "model.layers.1."}) {
    for (const char* part :
         {"input_layernorm", "self_attn.q_a_proj", "self_attn.q_a_layernorm", "self_attn.q_b_proj",
          "self_attn.kv_a_proj_with_mqa", "self_attn.kv_a_layernorm", "self_attn.kv_b_proj",
          "self_attn.o_proj", "post_attention_layernorm"}) {
      expected.push_back(layer + part + ".weight");
    }
    const std::vector<std::string> networks =
        layer == "model.layers.0."
            ? std::vector<std::string>{"mlp."}
            : std::vector<std::string>{"mlp.experts.0.", "mlp.experts.1.", "mlp.experts.2.",
                                       "mlp.shared_experts."};
    if (networks.size() > 1) expected.push_back(layer + "mlp.gate.weight");
    for (const std::string& network : networks) {
      for (const char* part : {"gate_proj", "up_proj", "down_proj"}) {
        expected.push_back(layer + network + part + ".weight");
      }
    }
  }
  expected.push_back("model.norm.weight");
  expected.push_back("lm_head.weight");
  EXPECT_EQ(names, expected);
}

TEST(Model, AttentionOfLlamaHasItsNamesToo) {
  Model model(with_attention(toy_config(), "gqa"), DType::f32);
  std::vector<std::string> names;
  for (const Parameter* p : parameters_of(model)) {
    const std::string layer = "model.layers.1.self_attn.";
    if (p->name.starts_with(layer)) {
      names.push_back(p->name.substr(layer.size()) + " " + p->value.shape().str());
    }
  }
  EXPECT_EQ(names, (std::vector<std::string>{"q_proj.weight [24, 20]", "k_proj.weight [12, 20]",
                                             "v_proj.weight [12, 20]", "o_proj.weight [20, 24]"}));
}

TEST(Model, HasAsManyParametersAsCounted) {
  std::vector<ModelConfig> configs = several_configs();
  configs.push_back({});  // the defaults
  configs.push_back(toy_config());
  configs.back().n_routed_experts = 0;  // dense
  configs.push_back(toy_config());
  configs.back().num_hidden_layers = 5;
  configs.back().moe_layer_freq = 2;
  for (const ModelConfig& c : configs) {
    validate(c);
    Model model(c, DType::f32);
    i64 total = 0, norms = 0, routed = 0;
    model.visit([&](Parameter& p) {
      total += p.value.numel();
      if (p.kind == ParamKind::norm) norms += p.value.numel();
      if (p.kind == ParamKind::routed_expert) routed += p.value.numel();
    });
    const ParameterCount counted = count_parameters(c);
    EXPECT_EQ(total, counted.total);
    EXPECT_EQ(norms, counted.norms);
    EXPECT_EQ(routed, counted.routed_experts);
  }
}

TEST(Model, GradientsOfTheWhole) {
  for (const ModelConfig& c : several_configs()) {
    Model model = random_model(c);
    const Tensor ids = random_ids({2, 6}, c.vocab_size);
    const Tensor labels = random_ids({12}, c.vocab_size, 2);
    labels.data<i32>()[3] = ops::kIgnoredLabel;
    const GradcheckReport report = gradcheck_parameters(
        [&](Tape& tape) {
          return loss_of(tape, model, model.forward(tape, ids), labels, 1.0 / 11);
        },
        parameters_of(model), 2);
    EXPECT_LT(report.worst, 1e-6) << report.detail;
  }
}

TEST(Model, DecodingEqualsTheForwardPass) {
  for (const ModelConfig& c : several_configs()) {
    const Model model = random_model(c);
    const i64 seq = 13;
    const Tensor ids = random_ids({1, seq}, c.vocab_size), flat = ids.reshape({seq});
    const Tensor full = logits_of(model, ids);
    KvCache one_by_one(c, seq, DType::f64), pieces(c, seq, DType::f64);
    for (i64 t = 0; t < seq; ++t) {
      const Tensor logits = model.decode(flat.rows(t, t + 1), one_by_one);
      EXPECT_LT(largest_difference(logits, full.rows(t, t + 1)), 1e-10) << "token " << t;
    }
    EXPECT_LT(largest_difference(model.decode(flat.rows(0, 8), pieces), full.rows(7, 8)), 1e-10);
    EXPECT_LT(largest_difference(model.decode(flat.rows(8, seq), pieces), full.rows(12, 13)),
              1e-10);
    EXPECT_THROW(model.decode(flat.rows(0, 1), pieces), ConfigError);  // full
  }
}

TEST(Model, ALongBeginningIsDecodedByTheKernelsOfTraining) {
  for (const ModelConfig& c : several_configs()) {
    const Model model = random_model(c);
    constexpr i64 kLong = 70, kAll = 74;
    const Tensor ids = random_ids({1, kAll}, c.vocab_size), flat = ids.reshape({kAll});
    const Tensor full = logits_of(model, ids);
    KvCache cache(c, kAll, DType::f64, 2);
    const Tensor other = random_ids({5}, c.vocab_size, 9);
    model.decode(other, cache, 0);
    const Tensor first = logits_of(model, ids.reshape({kAll}).rows(0, kLong).reshape({1, kLong}));
    EXPECT_LT(largest_difference(model.decode(flat.rows(0, kLong), cache, 1),
                                 first.rows(kLong - 1, kLong)),
              1e-13);
    for (i64 t = kLong; t < kAll; ++t) {
      EXPECT_LT(
          largest_difference(model.decode(flat.rows(t, t + 1), cache, 1), full.rows(t, t + 1)),
          1e-10);
    }
  }
}

// Bit for bit, whoever else is in the batch: sequences of several lengths, of which some end
// sooner.
TEST(Model, DecodesEachSequenceOfABatchAsIfAlone) {
  constexpr i64 kSequences = 11, kSteps = 5;
  std::vector<ModelConfig> configs = several_configs();
  configs.push_back(toy_config());
  configs.back().latent_bits = 6;
  configs.back().latent_group_size = 7;  // all of a latent
  for (const ModelConfig& c : configs) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      Model model(c, dtype);
      randomise(model);
      KvCache together(c, 40, dtype, kSequences);
      std::vector<KvCache> alone;
      for (i64 s = 0; s < kSequences; ++s) {
        const Tensor prompt = random_ids({1 + 3 * s}, c.vocab_size, std::uint64_t(s));
        alone.emplace_back(c, 40, dtype);
        EXPECT_TRUE(same_bits(model.decode(prompt, together, s), model.decode(prompt, alone[s])));
      }
      std::vector<i64> running(kSequences);
      std::iota(running.begin(), running.end(), i64{0});
      std::ranges::reverse(running);
      for (i64 step = 0; step < kSteps; ++step) {
        const Tensor ids =
            random_ids({i64(running.size())}, c.vocab_size, std::uint64_t(90 + step));
        const Tensor logits = model.decode_each(ids, running, together);
        for (i64 i = 0; i < i64(running.size()); ++i) {
          const Tensor one = model.decode(ids.rows(i, i + 1), alone[size_t(running[size_t(i)])]);
          EXPECT_TRUE(same_bits(logits.rows(i, i + 1).reshape({c.vocab_size}), one));
        }
        running.erase(running.begin() + step);
      }
    }
  }
}

TEST(Model, SequencesOfABatchDoNotMix) {
  const Model model = random_model(with_q_lora(group_limited(toy_config())));
  const Tensor ids = random_ids({3, 8}, model.config.vocab_size);
  const Tensor together = logits_of(model, ids);
  for (i64 b = 0; b < 3; ++b) {
    const Tensor alone = logits_of(model, ids.rows(b, b + 1));
    EXPECT_LT(largest_difference(together.rows(8 * b, 8 * b + 8), alone), 1e-12) << b;
  }
}

void expect_separate_documents(const ModelConfig& config) {
  const Model model = random_model(config);
  const i64 first = 5, second = 8, seq = first + second;
  const Tensor ids = random_ids({1, seq}, model.config.vocab_size);
  const Tensor begins = Tensor::zeros({1, seq}, DType::i32);
  for (i64 t = first; t < seq; ++t) begins.data<i32>()[t] = i32(first);
  const Tensor packed = logits_of(model, ids, begins);

  // The same tokens at the same positions after another document.
  const Tensor others = ids.clone();
  for (i64 t = 0; t < first; ++t) others.data<i32>()[t] = (others.data<i32>()[t] + 1) % 53;
  const Tensor behind_others = logits_of(model, others, begins);
  EXPECT_LT(largest_difference(packed.rows(first, seq), behind_others.rows(first, seq)), 1e-13);

  // Alone, from position 0: rotation sees distances only.
  const Tensor alone = logits_of(model, ids.view(first, {1, second}));
  EXPECT_LT(largest_difference(packed.rows(first, seq), alone), 1e-10);
  EXPECT_LT(largest_difference(packed.rows(0, first), logits_of(model, ids.view(0, {1, first}))),
            1e-12);
  const Tensor unmasked = logits_of(model, ids);
  EXPECT_GT(largest_difference(unmasked.rows(first, seq), alone), 1e-3);
}

TEST(Model, PackedDocumentsDoNotSeeEachOther) {
  expect_separate_documents(with_yarn(toy_config()));
  for (const char* kind : {"mha", "gqa", "mqa"}) {
    expect_separate_documents(with_attention(toy_config(), kind));
  }
}

TEST(Model, RecomputationChangesNoBit) {
  for (const ModelConfig& c : several_configs()) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      Model model = random_model(c, dtype);
      const Tensor ids = random_ids({2, 9}, c.vocab_size);
      const Step kept = step_of(model, ids);
      const Step recomputed = step_of(model, ids, {.recompute = true});
      expect_same_bits(model, kept, recomputed);
      ASSERT_EQ(recomputed.loads.size(), 1u);  // counted once
    }
  }
}

TEST(Model, ThreadsChangeNoBit) {
  const int threads = num_threads();
  for (const DType dtype : {DType::f32, DType::f64, DType::bf16}) {
    // Sizes above the chunks of every loop, none a multiple of a vector.
    ModelConfig c = with_q_lora(toy_config());
    c.vocab_size = 307;
    c.hidden_size = 96;
    c.intermediate_size = 130;
    c.moe_intermediate_size = 70;
    c.num_hidden_layers = 3;
    Model model = random_model(c, dtype, 0.1);
    const Tensor ids = random_ids({3, 200}, c.vocab_size);
    set_num_threads(1);
    const Step serial = step_of(model, ids);
    set_num_threads(2);
    const Step parallel = step_of(model, ids);
    expect_same_bits(model, serial, parallel);
  }
  set_num_threads(threads);
}

TEST(Model, HalfBatchesAverageToTheWhole) {
  for (const bool per_sequence : {true, false}) {
    ModelConfig c = toy_config();
    c.seq_aux = per_sequence;
    Model model = random_model(c);
    const Tensor ids = random_ids({4, 6}, c.vocab_size);
    const Tensor labels = random_ids({24}, c.vocab_size, 2);
    const std::vector<Parameter*> parameters = parameters_of(model);
    const auto run = [&](i64 begin, i64 end) {
      Tape tape;
      const ModelOutput out = model.forward(tape, ids.rows(begin, end));
      const Var loss = loss_of(tape, model, out, labels.rows(6 * begin, 6 * end), 1.0 / 24,
                               double(end - begin) / 4);
      tape.backward(loss);
      return loss.item();
    };
    for (Parameter* p : parameters) p->clear_grad();
    const double whole = run(0, 4);
    std::vector<Tensor> expected;
    for (Parameter* p : parameters) {
      p->settle_grad();
      expected.push_back(p->grad.clone());
    }
    for (Parameter* p : parameters) p->clear_grad();  // slices of a stack share a flag
    const double halves = run(0, 2) + run(2, 4);
    double worst = 0;
    for (size_t i = 0; i < parameters.size(); ++i) {
      parameters[i]->settle_grad();
      worst = std::max(worst, largest_difference(parameters[i]->grad, expected[i]));
    }
    if (per_sequence) {
      EXPECT_NEAR(whole, halves, 1e-14);
      EXPECT_LT(worst, 1e-13);
    } else {
      EXPECT_GT(std::abs(whole - halves), 1e-5);  // one count for the batch does not split
    }
  }
}

double deviation(const Tensor& t, double mean) {
  double squares = 0;
  const Tensor x = t.cast(DType::f64);
  for (const double v : x.span<double>()) squares += (v - mean) * (v - mean);
  return std::sqrt(squares / double(t.numel()));
}

TEST(Model, InitialValuesHaveTheirSpread) {
  ModelConfig c;
  c.num_hidden_layers = 2;
  c.initializer_range = 0.006;
  c.embedding_init_std = 0.7;
  Model model(c);
  model.initialise(5);
  model.visit([&](Parameter& p) {
    if (p.kind == ParamKind::norm) {
      EXPECT_EQ(largest_difference(p.value, Tensor::full(p.value.shape(), DType::f32, 1)), 0);
      return;
    }
    const double std = p.kind == ParamKind::embedding ? 0.7 : 0.006;
    EXPECT_NEAR(deviation(p.value, 0), std, 0.05 * std) << p.name;
  });
  Model same(c), other(c);
  same.initialise(5);
  other.initialise(6);
  EXPECT_TRUE(same_bits(model.lm_head.value, same.lm_head.value));
  EXPECT_FALSE(same_bits(model.lm_head.value, other.lm_head.value));
}

// Token ids whose frequency falls as 1 / (rank + 2), as in text.
Tensor zipf_ids(const Shape& shape, i64 vocab) {
  std::vector<double> cumulative;
  double sum = 0;
  for (i64 i = 0; i < vocab; ++i) cumulative.push_back(sum += 1.0 / double(i + 2));
  const Tensor ids = Tensor::empty(shape, DType::i32);
  const Random random(4, "zipf");
  for (i64 i = 0; i < ids.numel(); ++i) {
    const double u = random.uniform(std::uint64_t(i)) * sum;
    ids.data<i32>()[i] =
        i32(std::upper_bound(cumulative.begin(), cumulative.end(), u) - cumulative.begin());
  }
  return ids;
}

// The largest load over the mean, in the worst layer of an untrained model.
double unevenness(double embedding_init_std) {
  ModelConfig c;
  c.num_hidden_layers = 4;
  c.embedding_init_std = embedding_init_std;
  Model model(c);
  model.initialise(1);
  Tape silent(false);
  double worst = 0;
  for (const RouterStats& r : model.forward(silent, zipf_ids({16, 256}, c.vocab_size)).router) {
    const double mean = 4096.0 * double(c.num_experts_per_tok) / double(c.n_routed_experts);
    worst = std::max(worst, double(*std::max_element(r.load.begin(), r.load.end())) / mean);
  }
  return worst;
}

TEST(Model, AnUntrainedRouterIsNearEven) {
  const double with_default = unevenness(ModelConfig{}.embedding_init_std);
  const double with_small = unevenness(0.02);
  RecordProperty("default", std::to_string(with_default));
  RecordProperty("small", std::to_string(with_small));
  EXPECT_LT(with_default, 2);  // 1.4; 4 if every token chose the same experts
  EXPECT_GT(with_small, with_default);
}

}  // namespace
}  // namespace quern
