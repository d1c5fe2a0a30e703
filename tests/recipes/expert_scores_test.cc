// SPDX-License-Identifier: MIT
// Which experts a text uses, against counts by hand.
#include "quern/recipes/expert_scores.h"

#include <gtest/gtest.h>

#include <cmath>

#include "quern/data/atomic_file.h"
#include "tests/support/temp_dir.h"
#include "tests/support/toy_model.h"

namespace quern {
namespace {

using Average = ScoreOptions::Average;
using testing::toy_config;

// Documents of 4, 10 and 6 tokens of the toy vocabulary; conversations, whose last token is learnt.
std::shared_ptr<const TokenFile> documents(const TempDir& dir, bool conversations) {
  TokenData data{.tokenizer_sha256 = "none", .vocab_size = 53, .sources = {{"s", 9, ""}}};
  if (conversations) data.trained.emplace();
  const Random random(5, "tokens");
  for (const i64 length : {4, 10, 6}) {
    for (i64 i = 0; i < length; ++i) {
      data.tokens.push_back(i32(random.below(data.tokens.size(), 53)));
    }
    const i64 end = i64(data.tokens.size());
    data.document_offsets.push_back(end);
    data.document_source.push_back(0);
    if (conversations) data.trained->push_back({end - 1, end});
  }
  write_token_file(dir / "t.h5", data);
  return std::make_shared<const TokenFile>(dir / "t.h5");
}

// The hash router's experts are known: those of its table.
TEST(ExpertScores, OfAModelWhoseExpertsAreKnown) {
  const TempDir dir;
  const auto file = documents(dir, true);
  ModelConfig config = toy_config();
  config.topk_method = "hash";
  config.num_experts_per_tok = 1;
  config.norm_topk_prob = false;
  config.aux_loss_alpha = 0;
  Model model(config, DType::f64);
  testing::randomise(model);
  const i32* table = model.layers[1].moe->router.table.data<i32>();
  std::vector<i32> tokens(20);
  file->read(0, tokens);
  for (const Average average : {Average::sample, Average::token}) {
    std::vector<double> wanted(8);
    const auto offsets = file->document_offsets();
    for (size_t d = 0; d < 3; ++d) {
      const double length = double(offsets[d + 1] - offsets[d]);
      const double weight = average == Average::sample ? 1 / (3 * length) : 1.0 / 20;
      for (i64 i = offsets[d]; i < offsets[d + 1]; ++i) {
        wanted[size_t(table[tokens[size_t(i)]])] += weight;
      }
    }
    const ExpertScores scores =
        score_experts(model, *file, {.average = average, .sequence_length = 12});
    ASSERT_EQ(scores.token.size(), 1u);  // layer 0 is dense
    for (size_t e = 0; e < 8; ++e) {
      EXPECT_NEAR(scores.token.at(1)[e], wanted[e], 1e-12);
      EXPECT_NEAR(scores.gate.at(1)[e], wanted[e], 1e-12);
    }
  }
}

// Document after document by itself, without packing.
ExpertScores one_by_one(const Model& model, const TokenFile& file, double scaling) {
  ExpertScores sum;
  sum.gate[1].resize(8);
  sum.token[1].resize(8);
  for (i64 d = 0; d < 3; ++d) {
    const i64 begin = file.document_offsets()[size_t(d)];
    const i64 length = file.document_offsets()[size_t(d) + 1] - begin;
    const Tensor ids = Tensor::empty({1, length}, DType::i32);
    file.read(begin, ids.span<i32>());
    Tape silent(false);
    const auto router = model.forward(silent, ids, {}, {.trace = true}).router[0];
    for (i64 i = 0; i < router.expert_ids.numel(); ++i) {
      const auto e = size_t(router.expert_ids.data<i32>()[i]);
      sum.gate[1][e] += router.weights.data<double>()[i] / scaling / double(3 * length);
      sum.token[1][e] += 1.0 / double(3 * length * router.expert_ids.dim(1));
    }
  }
  return sum;
}

TEST(ExpertScores, GatesAreMeansBeforeScaling) {
  const TempDir dir;
  const auto file = documents(dir, true);
  ModelConfig one_choice = toy_config();  // whose weight is scaled, not normalised
  one_choice.num_experts_per_tok = 1;
  one_choice.norm_topk_prob = true;
  one_choice.routed_scaling_factor = 2.5;
  for (const ModelConfig& config : {toy_config(), testing::group_limited(toy_config()),
                                    testing::noaux_tc(toy_config()), one_choice}) {
    Model model(config, DType::f64);
    testing::randomise(model);
    const ExpertScores wanted = one_by_one(model, *file, config.routed_scaling_factor);
    const ExpertScores scores = score_experts(model, *file, {.sequence_length = 12});
    double sum = 0;
    for (size_t e = 0; e < 8; ++e) {
      EXPECT_NEAR(scores.gate.at(1)[e], wanted.gate.at(1)[e], 1e-12);
      EXPECT_NEAR(scores.token.at(1)[e], wanted.token.at(1)[e], 1e-12);
      sum += scores.token.at(1)[e];
    }
    EXPECT_NEAR(sum, 1, 1e-12);
  }
}

TEST(ExpertScores, TextInWindowsAndPartsOfIt) {
  const TempDir dir;
  const auto file = documents(dir, false);
  Model model(toy_config(), DType::f64);
  testing::randomise(model);
  const ExpertScores all = score_experts(model, *file, {.sequence_length = 10});
  const ExpertScores half = score_experts(model, *file, {.sequence_length = 10, .tokens = 10});
  double difference = 0;
  for (size_t e = 0; e < 8; ++e) {
    difference += std::abs(all.token.at(1)[e] - half.token.at(1)[e]);
  }
  EXPECT_GT(difference, 1e-3);
  ModelConfig dense = toy_config();
  dense.n_routed_experts = dense.n_shared_experts = dense.num_experts_per_tok = 0;
  dense.aux_loss_alpha = 0;
  EXPECT_THROW(score_experts(Model(dense, DType::f64), *file, {.sequence_length = 10}),
               ConfigError);
}

TEST(ExpertScores, SelectsTheFewestThatReachTheThreshold) {
  using Ids = std::vector<i64>;
  const std::vector<double> scores = {0.1, 0.3, 0.05, 0.3, 0.15, 0.1};
  EXPECT_EQ(select_experts(scores, 0.3), (Ids{1}));  // a tie: the lower index
  EXPECT_EQ(select_experts(scores, 0.31), (Ids{1, 3}));
  EXPECT_EQ(select_experts(scores, 0.6), (Ids{1, 3}));
  EXPECT_EQ(select_experts(scores, 0.8), (Ids{1, 3, 4, 0}));
  EXPECT_EQ(select_experts(scores, 1.0), (Ids{1, 3, 4, 0, 5, 2}));
  EXPECT_EQ(select_experts(std::vector<double>{1.0}, 0.2), (Ids{0}));
  // Gate scores need not reach it: then all.
  EXPECT_EQ(select_experts(std::vector<double>{0.01, 0.02}, 0.2), (Ids{1, 0}));
  // Ten tenths are one, whatever rounding says.
  EXPECT_EQ(select_experts(std::vector<double>(10, 0.1), 0.3).size(), 3u);
  const ExpertSelection both = select_experts(LayerScores{{1, scores}, {4, {0.5, 0.5}}}, 0.3);
  EXPECT_EQ(both.experts.at(1), (Ids{1}));
  EXPECT_EQ(both.experts.at(4), (Ids{0}));
}

TEST(ExpertScores, FilesInThePublishedForms) {
  const TempDir dir;
  const ExpertScores scores{.gate = {{1, {0.25, 0.5}}, {2, {1.0 / 3, 0}}},
                            .token = {{1, {0.75, 0.25}}, {2, {0.1, 0.9}}}};
  write_file_atomically(dir / "s.json", to_json(scores));
  EXPECT_EQ(read_expert_scores(dir / "s.json"), scores);
  const ExpertSelection selection{.experts = {{1, {5, 2}}, {26, {0}}}, .shared_experts = true};
  EXPECT_EQ(to_json(selection),
            R"({"experts":{"1":[5,2],"26":[0]},"shared_experts":true,"non_expert_modules":false})"
            "\n");
  write_file_atomically(dir / "e.json", to_json(selection));
  EXPECT_EQ(read_expert_selection(dir / "e.json"), selection);
  const auto refused = [&](const std::string& text) {
    EXPECT_THROW(read_expert_selection(dir.file("bad.json", text)), DataError) << text;
    EXPECT_THROW(read_expert_scores(dir.file("bad.json", text)), DataError) << text;
  };
  for (const char* text :
       {"", "[]", "{}", R"({"experts": []})",
        R"({"experts": {"x": [1]}, "shared_experts": false, "non_expert_modules": false})",
        R"({"experts": {"1": 1}, "shared_experts": false, "non_expert_modules": false})",
        R"({"experts": {"1": [0.5]}, "shared_experts": false, "non_expert_modules": false})",
        R"({"experts": {"1": [1]}, "shared_experts": 0, "non_expert_modules": false})",
        R"({"token_scores": {"1": {"1": 0.5}}, "gate_scores": {}})",
        R"({"token_scores": {"1": {"0": "x"}}, "gate_scores": {}})",
        R"({"token_scores": {"1": {}}, "gate_scores": {}})"}) {
    refused(text);
  }
}

TEST(ExpertScores, SelectionsOfOtherModelsAreRefused) {
  const ModelConfig config = toy_config();  // layer 0 is dense, 8 experts in layer 1
  check_selection({.experts = {{1, {0, 7}}}}, config, "e.json");
  EXPECT_THROW(check_selection({.experts = {{0, {1}}}}, config, "e.json"), ConfigError);
  EXPECT_THROW(check_selection({.experts = {{2, {1}}}}, config, "e.json"), ConfigError);
  EXPECT_THROW(check_selection({.experts = {{1, {8}}}}, config, "e.json"), ConfigError);
  EXPECT_THROW(check_selection({.experts = {{1, {-1}}}}, config, "e.json"), ConfigError);
}

}  // namespace
}  // namespace quern
