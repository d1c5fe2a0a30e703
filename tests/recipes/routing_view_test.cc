// SPDX-License-Identifier: MIT
// Views of routing against counts by hand.
#include "quern/recipes/routing_view.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "tests/recipes/run_fixture.h"
#include "tests/support/toy_model.h"

namespace quern {
namespace {

class RoutingViewTest : public ::testing::Test {
 protected:
  RoutingViewTest()
      : model_(testing::with_vocabulary(testing::toy_config(), 320),
               DType::f64) {  // 3 of 8 experts in layer 1
    testing::prepare_corpus(dir_, "corpus");
    tokenizer_ = Tokenizer::load(dir_ / "corpus/tokenizer.json");
    testing::randomise(model_);
  }

  TempDir dir_;
  Model model_;
  std::optional<Tokenizer> tokenizer_;
};

TEST_F(RoutingViewTest, CountsWhatRoutersChoose) {
  const std::vector<RoutedText> texts = {{"a", {{1, 2, 3, 4, 5}, {6, 7, 8}}}, {"b", {{9, 10}}}};
  const RoutingView view = view_routing(model_, *tokenizer_, texts, {.shown_tokens = 6});
  ASSERT_EQ(view.layers.size(), 1u);
  const LayerRouting& layer = view.layers[0];
  EXPECT_EQ(layer.layer, 1);
  EXPECT_EQ(view.tokens, (std::vector<i64>{8, 2}));

  std::vector<double> count(8), of_b(8);
  double both = 0, entropy = 0;
  std::vector<std::vector<i32>> choices;
  for (const RoutedText& text : texts) {
    for (const auto& window : text.windows) {
      Tape silent(false);
      const RouterStats stats =
          model_
              .forward(silent, Tensor::from<i32>({1, i64(window.size())}, window), {},
                       {.trace = true})
              .router[0];
      for (i64 t = 0; t < i64(window.size()); ++t) {
        const auto ids = stats.expert_ids.rows(t, t + 1).span<i32>();
        choices.emplace_back(ids.begin(), ids.end());
        for (const i32 id : ids) ++count[size_t(id)], of_b[size_t(id)] += text.domain == "b";
        const auto logits = stats.logits.rows(t, t + 1).span<double>();
        double sum = 0;
        for (const double z : logits) sum += std::exp(z);
        for (const double z : logits) entropy -= std::exp(z) / sum * (z - std::log(sum));
      }
    }
  }
  for (size_t e = 0; e < 8; ++e) {
    EXPECT_NEAR(layer.load[e], count[e] * 8 / 30, 1e-12);
    EXPECT_NEAR(layer.by_domain[1][e], of_b[e] * 8 / 6, 1e-12);
  }
  EXPECT_NEAR(layer.gate_entropy, entropy / 10, 1e-9);
  ASSERT_EQ(view.first.size(), 6u);
  EXPECT_EQ(view.first[5].experts[0], choices[5]);
  EXPECT_EQ(view.first[5].text, tokenizer_->token_bytes(6));

  const i32 i = choices[0][0], j = choices[0][1];
  for (const auto& c : choices) {
    both += std::ranges::count(c, i) > 0 && std::ranges::count(c, j) > 0;
  }
  // By chance: the two counts over the tokens, and no two of a token's choices are the same.
  const double expected = count[size_t(i)] * count[size_t(j)] / 10 * (2.0 / 3) * (8.0 / 7);
  EXPECT_NEAR(layer.together[size_t(i)][size_t(j)], both / expected, 1e-12);
  EXPECT_TRUE(std::isnan(layer.together[size_t(i)][size_t(i)]));
}

// Choices that have nothing to do with each other come together as often as chance has it.
TEST_F(RoutingViewTest, ChanceIsOne) {
  model_.layers[1].moe->router.gate.weight.value.fill(0);
  std::vector<RoutedText> texts = {{"a", {}}};
  for (std::uint64_t s = 0; s < 8; ++s) {
    const Tensor ids = testing::random_ids({40}, 300, s);
    texts[0].windows.emplace_back(ids.data<i32>(), ids.data<i32>() + 40);
  }
  const RoutingView even = view_routing(model_, *tokenizer_, texts);  // ties: experts 0, 1 and 2
  EXPECT_NEAR(even.layers[0].load[0], 8.0 / 3, 1e-12);
  EXPECT_EQ(even.layers[0].unused(), 5);
  EXPECT_NEAR(even.layers[0].gate_entropy, std::log(8.0), 1e-9);
  EXPECT_NEAR(even.layers[0].load_entropy, std::log(3.0), 1e-9);
}

TEST_F(RoutingViewTest, ReadsTextsAndTokenFiles) {
  dir_.file("sea.txt", "the sea and the sea");
  const auto text = read_routed_texts(dir_ / "sea.txt", *tokenizer_, 4, 0);
  ASSERT_EQ(text.size(), 1u);
  EXPECT_EQ(text[0].domain, "sea");
  std::string back;
  for (const auto& window : text[0].windows) {
    EXPECT_LE(window.size(), 4u);
    back += tokenizer_->decode(window);
  }
  EXPECT_EQ(back, std::string(kEosToken) + "the sea and the sea");
  const auto sources = read_routed_texts(dir_ / "corpus/validation.h5", *tokenizer_, 16, 64);
  EXPECT_EQ(sources.size(), 2u);
  size_t windows = 0;
  for (const RoutedText& s : sources) windows += s.windows.size();
  EXPECT_EQ(windows, 4u);
}

TEST_F(RoutingViewTest, IsShown) {
  const RoutingView view =
      view_routing(model_, *tokenizer_, {{"<a>", {{1, 2, 3}}}, {"b", {{4, 5}}}});
  const auto json = nlohmann::json::parse(json_of(view));
  EXPECT_EQ(json["layers"][0]["together"].size(), 8u);
  EXPECT_TRUE(json["layers"][0]["together"][0][0].is_null());
  EXPECT_EQ(json["tokens"].size(), 5u);
  const std::string html = html_of(view, "run");
  for (const char* id : {"\"routers\"", "\"load\"", "\"domains-1\"", "\"pairs-1\"", "\"tokens\""}) {
    EXPECT_NE(html.find(std::string("id=") + id), std::string::npos) << id;
  }
  EXPECT_EQ(html.find("<a>"), std::string::npos);
  EXPECT_NE(table_of(view).find("layer 1: busiest"), std::string::npos);
}

}  // namespace
}  // namespace quern
