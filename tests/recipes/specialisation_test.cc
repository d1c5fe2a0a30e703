// SPDX-License-Identifier: MIT
// The probes of experts, against routing by hand.
#include "quern/recipes/specialisation.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>

#include "tests/support/temp_dir.h"
#include "tests/support/toy_model.h"

namespace quern {
namespace {

using testing::same_bits;

std::shared_ptr<const TokenFile> toy_tokens(const TempDir& dir) {
  TokenData data{.tokenizer_sha256 = "none", .vocab_size = 53};
  const Tensor ids = testing::random_ids({200}, 53);
  data.tokens.assign(ids.data<i32>(), ids.data<i32>() + 200);
  data.document_offsets.push_back(200);
  data.document_source.push_back(0);
  data.sources = {{"text", 321, ""}};
  write_token_file(dir / "tokens.h5", data);
  return std::make_shared<const TokenFile>(dir / "tokens.h5");
}

Model toy(const ModelConfig& config) {
  Model model(config, DType::f64);
  testing::randomise(model);
  return model;
}

std::vector<RouterStats> route(const Model& model, const Tensor& ids) {
  Tape silent(false);
  return model.forward(silent, ids, {}, {.trace = true}).router;
}

TEST(Specialisation, WhatIsPassedOverIsNotChosen) {
  for (const ModelConfig& c : {testing::toy_config(), testing::group_limited(testing::toy_config()),
                               testing::noaux_tc(testing::toy_config())}) {
    Model model = toy(c);
    const Tensor ids = testing::random_ids({2, 9}, c.vocab_size);
    const RouterStats before = route(model, ids)[0];
    constexpr i64 kPassed = 2;
    model.layers[1].moe->router.passed_over = kPassed;
    const RouterStats after = route(model, ids)[0];
    ASSERT_TRUE(same_bits(before.logits, after.logits));
    for (i64 t = 0; t < 18; ++t) {
      const auto logits = before.logits.rows(t, t + 1).span<double>();
      std::vector<i32> order(logits.size());
      std::iota(order.begin(), order.end(), 0);
      std::ranges::stable_sort(order, std::greater(), [&](i32 e) { return logits[size_t(e)]; });
      std::set<i32> seen;
      for (const i32 id : after.expert_ids.rows(t, t + 1).span<i32>()) {
        if (id < 0) continue;
        EXPECT_TRUE(seen.insert(id).second);
        EXPECT_EQ(std::find(order.begin(), order.begin() + kPassed, id), order.begin() + kPassed);
      }
      EXPECT_FALSE(seen.empty());
      if (c.topk_method != "greedy") continue;
      EXPECT_EQ(seen, std::set<i32>(order.begin() + kPassed, order.begin() + kPassed + 3));
    }
  }
}

TEST(Specialisation, MeasuresTheChangedModelAndRestoresIt) {
  const TempDir dir;
  const std::vector files = {toy_tokens(dir)};
  const EvaluateOptions options{.sequence_length = 16, .before_batch = {}};
  const ModelConfig c = testing::toy_config();  // 3 of 8 experts, 2 shared
  Model model = toy(c);
  const Tensor ids = testing::random_ids({1, 12}, c.vocab_size);
  const Tensor before = testing::logits_of(model, ids);
  const SpecialisationProbes p = probe_specialisation(model, files, options);
  EXPECT_TRUE(same_bits(testing::logits_of(model, ids), before));
  EXPECT_EQ(p.whole.bits_per_byte, evaluate(model, files, options).bits_per_byte);

  ASSERT_EQ(p.passed_over.size(), 2u);  // 1 and 2: a sixteenth and an eighth are one
  EXPECT_EQ(p.passed_over[0].experts, 1);
  EXPECT_EQ(p.passed_over[1].experts, 2);
  ASSERT_EQ(p.active_experts.size(), 3u);
  EXPECT_EQ(p.active_experts[2].bits_per_byte, p.whole.bits_per_byte);
  // A model with one active expert from the start is the same.
  ModelConfig one = c;
  one.num_experts_per_tok = 1;
  EXPECT_EQ(p.active_experts[0].bits_per_byte, evaluate(toy(one), files, options).bits_per_byte);
  // So is one with four, whose shared experts give nothing.
  ModelConfig four = c;
  four.num_experts_per_tok = 4;
  Model mute = toy(four);
  mute.visit([](Parameter& q) {
    if (q.name.find("shared_experts.down_proj") != std::string::npos) q.value.fill(0);
  });
  ASSERT_TRUE(p.without_shared);
  EXPECT_NEAR(p.without_shared->bits_per_byte, evaluate(mute, files, options).bits_per_byte, 1e-12);
}

TEST(Specialisation, RefusesModelsWithoutScores) {
  const TempDir dir;
  const std::vector files = {toy_tokens(dir)};
  ModelConfig dense = testing::toy_config(), hash = dense;
  dense.n_routed_experts = 0;
  hash.topk_method = "hash";
  hash.num_experts_per_tok = 1;
  for (const ModelConfig& c : {dense, hash}) {
    Model model = toy(c);
    EXPECT_THROW(probe_specialisation(model, files, {}), ConfigError);
  }
}

TEST(Specialisation, IsShown) {
  SpecialisationProbes p{.routed = 16, .active = 2, .shared = 1, .whole = {0, 1.5, 0.01, 2.5}};
  p.passed_over = {{1, 1.75, 0.02, 3}};
  p.active_experts = {{1, 2.25, 0.02, 3}, {2, 1.5, 0.01, 2.5}};
  const std::vector<NamedProbes> all = {{"<run>", p}};
  const auto json = nlohmann::json::parse(json_of(all));
  EXPECT_EQ(json["models"][0]["best_disabled"][0]["bits_per_byte"], 1.75);
  EXPECT_TRUE(json["models"][0]["shared_disabled"].is_null());
  EXPECT_NE(table_of(all).find("best experts of each token disabled: 1"), std::string::npos);
  const std::string html = html_of(all);
  EXPECT_NE(html.find("+0.2500"), std::string::npos);
  EXPECT_NE(html.find("<circle"), std::string::npos);
  EXPECT_EQ(html.find("<run>"), std::string::npos);
}

}  // namespace
}  // namespace quern
