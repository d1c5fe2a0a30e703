// SPDX-License-Identifier: MIT
// Multi-token prediction: what its modules see and predict, and their gradients.
#include "quern/layers/nextn.h"

#include <gtest/gtest.h>

#include <cmath>

#include "quern/autograd/gradcheck.h"
#include "tests/layers/model_step.h"

namespace quern {
namespace {

using namespace testing;

constexpr TrainingStep kStep{.seed = 1, .first_sample = 0, .counted = {}};
constexpr i64 kSeq = 7;

ModelConfig with_modules(ModelConfig c, i64 modules) {
  c.num_nextn_predict_layers = modules;
  return c;
}

Tensor next_tokens(const Tensor& ids) {
  const Tensor labels = Tensor::full(ids.shape(), DType::i32, -100);
  for (i64 i = 0; i < ids.numel(); ++i) {
    if ((i + 1) % ids.dim(1) != 0) labels.data<i32>()[i] = ids.data<i32>()[i + 1];
  }
  return labels;
}

Tensor two_documents(i64 begin) {
  const Tensor first = Tensor::zeros({1, kSeq}, DType::i32);
  for (i64 t = begin; t < kSeq; ++t) first.data<i32>()[t] = i32(begin);
  return first;
}

Var further_loss(Tape& tape, const Model& model, const Tensor& ids, const Tensor& first_key,
                 const ForwardOptions& options = {.step = &kStep}) {
  const ModelOutput out = model.forward(tape, ids, first_key, options);
  return nextn_loss(tape, out.nextn, tape.parameter(model.head()), next_tokens(ids), first_key,
                    1.0 / double(ids.numel()));
}

Tensor further_hidden(const Model& model, const Tensor& ids, size_t module,
                      const Tensor& first_key = {}) {
  Tape silent(false);
  return model.forward(silent, ids, first_key, {.step = &kStep}).nextn.at(module).value();
}

// Hugging Face's deepseek-ai/DeepSeek-V3, model.layers.61; embed_tokens and shared_head.head, which
// that file repeats, are the model's.
TEST(Nextn, HasTheNamesOfDeepSeekV3) {
  Model model(with_q_lora(noaux_tc(with_modules(toy_config(), 1))), DType::f32);
  std::vector<std::string> names;
  model.visit_tensors([&](const std::string& name, const Tensor& t) {
    const std::string module = "model.layers.2.";
    if (name.starts_with(module) && name.find("experts") == std::string::npos) {
      names.push_back(name.substr(module.size()) + " " + t.shape().str());
    }
  });
  EXPECT_EQ(names, (std::vector<std::string>{
                       "enorm.weight [20]", "hnorm.weight [20]", "eh_proj.weight [20, 40]",
                       "input_layernorm.weight [20]", "self_attn.q_a_proj.weight [11, 20]",
                       "self_attn.q_a_layernorm.weight [11]", "self_attn.q_b_proj.weight [30, 11]",
                       "self_attn.kv_a_proj_with_mqa.weight [11, 20]",
                       "self_attn.kv_a_layernorm.weight [7]", "self_attn.kv_b_proj.weight [33, 7]",
                       "self_attn.o_proj.weight [20, 15]", "post_attention_layernorm.weight [20]",
                       "mlp.gate.weight [8, 20]", "shared_head.norm.weight [20]",
                       "mlp.gate.e_score_correction_bias [8]"}));
}

TEST(Nextn, IsCountedApart) {
  for (ModelConfig c : several_configs()) {
    for (const i64 freq : {1, 2}) {
      c.moe_layer_freq = freq;
      c.first_k_dense_replace = 0;
      const ParameterCount without = count_parameters(c);
      const ModelConfig longer = with_modules(c, 2);
      Model model(longer, DType::f32);
      i64 total = 0;
      model.visit([&](Parameter& p) { total += p.value.numel(); });
      EXPECT_EQ(count_parameters(longer).total, total);
      EXPECT_EQ(count_parameters(longer).nextn, total - without.total);
      EXPECT_EQ(count_parameters(longer).active, without.active);
      EXPECT_GT(flops_per_token(longer, 8), flops_per_token(c, 8));
    }
  }
}

TEST(Nextn, Gradients) {
  for (const ModelConfig& c :
       {toy_config(), tied(with_q_lora(noaux_tc(toy_config()))),
        with_attention(toy_config(), "gqa"), normalised(group_limited(toy_config()))}) {
    Model model = random_model(with_modules(c, 2));
    const Tensor ids = random_ids({1, kSeq}, c.vocab_size);
    for (const Tensor& first_key : {Tensor(), two_documents(4)}) {
      const GradcheckReport report = gradcheck_parameters(
          [&](Tape& tape) { return further_loss(tape, model, ids, first_key); },
          parameters_of(model), 2);
      EXPECT_LT(report.worst, 1e-6) << report.detail;
    }
  }
}

// Eqs. 21-25, place by place: the layer of a module runs over the places that have a token k on.
TEST(Nextn, LossIsThatOfTheTokensFurtherOn) {
  const Model model = random_model(with_modules(toy_config(), 2));
  const Tensor ids = random_ids({2, kSeq}, model.config.vocab_size);
  Tape silent(false);
  const double got = further_loss(silent, model, ids, {}).item();
  double expected = 0;
  for (i64 row = 0; row < 2; ++row) {
    const Tensor own = ids.rows(row, row + 1).reshape({kSeq});
    Tensor hidden = model.forward(silent, ids.rows(row, row + 1)).hidden.value();
    for (i64 k = 1; k <= 2; ++k) {
      const NextnModule& module = model.nextn[size_t(k - 1)];
      const i64 kept = kSeq - k;
      const Tensor embedded = Tensor::empty({kept, model.config.hidden_size}, DType::f64);
      for (i64 i = 0; i < kept; ++i) {
        const i64 id = own.data<i32>()[i + k];
        embedded.rows(i, i + 1).copy_from(model.embed_tokens.value.rows(id, id + 1));
      }
      hidden = module
                   .forward(silent, Var(hidden.rows(0, kept)), Var(embedded),
                            context_for(model.config, 1, kept),
                            {.token_ids = own.rows(k, kSeq), .step = {}})
                   .y.value();
      const Var normed = module.shared_head_norm.forward(silent, Var(hidden));
      const Tensor p =
          ops::softmax(silent, ops::linear(silent, normed, silent.parameter(model.head()))).value();
      for (i64 i = 0; i + k + 1 < kSeq; ++i) {
        const i64 target = own.data<i32>()[i + k + 1];
        expected -= std::log(p.data<double>()[i * model.config.vocab_size + target]);
      }
    }
  }
  EXPECT_NEAR(got, expected / 2 / double(ids.numel()), 1e-12);
}

TEST(Nextn, SeesTheTokenBeforeTheOneItPredictsAndNoneLater) {
  const Model model = random_model(with_modules(toy_config(), 2));
  const Tensor ids = random_ids({1, kSeq}, model.config.vocab_size);
  const i64 changed = 4;
  const Tensor other = ids.clone();
  other.data<i32>()[changed] = (other.data<i32>()[changed] + 1) % 53;
  for (i64 k = 1; k <= 2; ++k) {
    const Tensor a = further_hidden(model, ids, size_t(k - 1));
    const Tensor b = further_hidden(model, other, size_t(k - 1));
    ASSERT_EQ(a.dim(0), kSeq - k);
    for (i64 i = 0; i < kSeq - k; ++i) {
      const bool same = largest_difference(a.rows(i, i + 1), b.rows(i, i + 1)) == 0;
      EXPECT_EQ(same, i + k < changed) << "module " << k << ", place " << i;
    }
  }
}

TEST(Nextn, LabelsEndWhereTheDocumentDoes) {
  const Tensor ids = Tensor::from<i32>({1, kSeq}, std::vector<i32>{10, 11, 12, 13, 14, 15, 16});
  const auto list = [](const Tensor& t) {
    const auto span = t.span<i32>();
    return std::vector<i32>(span.begin(), span.end());
  };
  EXPECT_EQ(list(nextn_labels(next_tokens(ids), {}, 1)),
            (std::vector<i32>{12, 13, 14, 15, 16, -100}));
  EXPECT_EQ(list(nextn_labels(next_tokens(ids), {}, 2)), (std::vector<i32>{13, 14, 15, 16, -100}));
  // Documents of four and three tokens; the first ends with the token that begins the second.
  const Tensor begins = two_documents(4);
  EXPECT_EQ(list(nextn_labels(next_tokens(ids), begins, 1)),
            (std::vector<i32>{12, 13, 14, -100, 16, -100}));
  EXPECT_EQ(list(nextn_labels(next_tokens(ids), begins, 2)),
            (std::vector<i32>{13, 14, -100, -100, -100}));
}

TEST(Nextn, DocumentsDoNotSeeEachOther) {
  const Model model = random_model(with_modules(toy_config(), 2));
  const Tensor ids = random_ids({1, kSeq}, model.config.vocab_size), begins = two_documents(4);
  const Tensor other = ids.clone();
  other.data<i32>()[1] = (other.data<i32>()[1] + 1) % 53;
  for (const size_t module : {size_t{0}, size_t{1}}) {
    const i64 kept = kSeq - i64(module) - 1;
    const Tensor a = further_hidden(model, ids, module, begins);
    const Tensor b = further_hidden(model, other, module, begins);
    EXPECT_LT(largest_difference(a.rows(4, kept), b.rows(4, kept)), 1e-12);
    EXPECT_GT(largest_difference(a.rows(0, 4), b.rows(0, 4)), 1e-3);
  }
}

TEST(Nextn, IsForTrainingAlone) {
  const ModelConfig c = toy_config();
  const Model with = random_model(with_modules(c, 1)), without = random_model(c);
  const Tensor ids = random_ids({2, kSeq}, c.vocab_size);
  Tape silent(false);
  const ModelOutput out = with.forward(silent, ids);
  EXPECT_TRUE(out.nextn.empty());
  EXPECT_EQ(out.router.size(), 1U);
  EXPECT_TRUE(same_bits(logits_of(with, ids), logits_of(without, ids)));
  EXPECT_EQ(with.forward(silent, ids, {}, {.step = &kStep}).router.size(), 2U);
}

TEST(Nextn, RecomputingLeavesTheSameGradients) {
  Model model = random_model(with_modules(toy_config(), 2));
  const Tensor ids = random_ids({2, kSeq}, model.config.vocab_size);
  std::vector<std::vector<Tensor>> gradients;
  for (const bool again : {false, true}) {
    for (Parameter* p : parameters_of(model)) p->clear_grad();
    Tape tape;
    tape.backward(further_loss(tape, model, ids, {}, {.recompute = again, .step = &kStep}));
    std::vector<Tensor>& all = gradients.emplace_back();
    for (Parameter* p : parameters_of(model)) {
      p->settle_grad();
      all.push_back(p->grad.clone());
    }
  }
  for (size_t i = 0; i < gradients[0].size(); ++i) {
    EXPECT_TRUE(same_bits(gradients[0][i], gradients[1][i]));
  }
}

TEST(Nextn, BiasesOfItsRoutersAreUpdated) {
  Model model = random_model(noaux_tc(with_modules(toy_config(), 1)));
  std::vector<std::vector<i64>> load(2, std::vector<i64>(8, 3));
  load[1][5] = 0;
  model.update_router_biases(load);
  const Tensor& bias = model.nextn[0].block.moe->router.choice.bias;
  EXPECT_GT(bias.data<double>()[5], 0);
  EXPECT_LT(bias.data<double>()[4], 0);
}

}  // namespace
}  // namespace quern
