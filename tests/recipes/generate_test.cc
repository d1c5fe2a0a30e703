// SPDX-License-Identifier: MIT
// Generation: the cache changes nothing, and each option does what it says.
#include "quern/recipes/generate.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "quern/data/bpe_trainer.h"
#include "tests/recipes/run_fixture.h"
#include "tests/support/toy_model.h"

namespace quern {
namespace {

class GenerateTest : public ::testing::Test {
 protected:
  GenerateTest()
      : model_([] {
          ModelConfig config = testing::toy_config();
          config.vocab_size = 320;  // 20 more than the tokenizer has
          return config;
        }()) {
    testing::prepare_corpus(dir_, "corpus");
    tokenizer_ = Tokenizer::load(dir_ / "corpus/tokenizer.json");
    testing::randomise(model_);
    set_eos_row(0);  // among random logits, one of 0 is never the largest
  }
  // Every weight of the head for <|eos|>.
  void set_eos_row(float weight) {
    for (float& w : model_.lm_head.value.rows(eos(), eos() + 1).span<float>()) w = weight;
  }
  std::string text(const GenerateOptions& options) const {
    return generate(model_, *tokenizer_, "the sea", options);
  }
  i32 eos() const { return tokenizer_->special_id(kEosToken).value(); }

  TempDir dir_;
  Model model_;
  std::optional<Tokenizer> tokenizer_;
};

TEST_F(GenerateTest, GreedyWithTheCacheIsGreedyWithout) {
  std::vector<i32> ids = tokenizer_->encode("the sea");
  ids.insert(ids.begin(), eos());
  std::string expected;
  for (int n = 0; n < 30; ++n) {
    const Tensor logits = testing::logits_of(model_, Tensor::from<i32>({1, i64(ids.size())}, ids));
    const Tensor last = logits.rows(i64(ids.size()) - 1, i64(ids.size()));
    const auto known = last.span<float>().first(size_t(tokenizer_->vocab_size()));
    ids.push_back(i32(std::max_element(known.begin(), known.end()) - known.begin()));
    if (ids.back() == eos()) break;
    expected += tokenizer_->decode(std::span(&ids.back(), 1));
  }
  EXPECT_FALSE(expected.empty());
  EXPECT_EQ(text({.tokens = 30, .temperature = 0}), expected);
  EXPECT_EQ(text({.tokens = 30, .temperature = 1, .top_k = 1, .seed = 5}), expected);
  EXPECT_EQ(text({.tokens = 30, .temperature = 1, .top_p = 1e-9}), expected);
}

TEST_F(GenerateTest, TheSeedDecides) {
  const std::string one = text({.tokens = 40, .temperature = 1, .top_p = 1, .seed = 1});
  EXPECT_EQ(one, text({.tokens = 40, .temperature = 1, .top_p = 1, .seed = 1}));
  EXPECT_NE(one, text({.tokens = 40, .temperature = 1, .top_p = 1, .seed = 2}));
}

TEST_F(GenerateTest, PiecesAddUpToTheText) {
  std::string pieces;
  const std::string whole =
      generate(model_, *tokenizer_, "the sea", {.tokens = 20, .temperature = 1},
               [&](const std::string& piece) { pieces += piece; });
  EXPECT_EQ(pieces, whole);
}

// Prompts of all lengths at once, of which some end sooner, by <|eos|> or a stop string.
TEST_F(GenerateTest, NeighboursChangeNothing) {
  set_eos_row(0.4f);
  std::set<Ended> ways;
  for (const double temperature : {0.0, 1.0}) {
    const GenerateOptions options{
        .tokens = 12, .temperature = temperature, .top_p = 1, .stop = {"e", "zz"}};
    std::vector<PromptTokens> prompts;
    std::vector<Generated> alone;
    for (const char* prompt : {"the sea", "", "a", "the moon and the sea and a long way to it", "x",
                               "an end", "of seven", "the sea"}) {
      prompts.push_back(prompt_tokens(*tokenizer_, prompt));
      alone.push_back(generate(model_, *tokenizer_, {prompts.back()}, options)[0]);
    }
    std::vector<std::string> pieces(prompts.size());
    const auto together =
        generate(model_, *tokenizer_, prompts, options,
                 [&](size_t row, const std::string& piece) { pieces[row] += piece; });
    for (size_t r = 0; r < prompts.size(); ++r) {
      EXPECT_EQ(together[r].text, alone[r].text);
      EXPECT_EQ(together[r].tokens, alone[r].tokens);
      EXPECT_EQ(together[r].ended, alone[r].ended);
      EXPECT_EQ(pieces[r], alone[r].text);
      EXPECT_EQ(together[r].text.find('e'), std::string::npos);
      ways.insert(together[r].ended);
    }
    EXPECT_EQ(together[0].text, together[7].text);
  }
  EXPECT_GT(ways.size(), 1u);
}

TEST_F(GenerateTest, EndsWithTheDocument) {
  model_.lm_head.value.fill(0);
  // Nothing but <|eos|> is likely, whatever the hidden state: it alone has a large logit of either
  // sign, and sampling sees the positive one sooner or later.
  set_eos_row(100);
  int ended = 0;
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    int pieces = 0;
    generate(model_, *tokenizer_, "the sea", {.tokens = 200, .temperature = 1, .seed = seed},
             [&](const std::string&) { ++pieces; });
    ended += pieces < 200;
  }
  EXPECT_EQ(ended, 5);
}

// The largest logits are those of ids that stand for no token.
TEST_F(GenerateTest, WritesOnlyTokensThatExist) {
  const i64 width = model_.config.hidden_size;
  for (i64 id = tokenizer_->vocab_size(); id < 320; ++id) {
    for (i64 i = 0; i < width; ++i) model_.lm_head.value.data<float>()[id * width + i] *= 50;
  }
  EXPECT_NO_THROW(generate(model_, *tokenizer_, "the", {.tokens = 50, .temperature = 2}));
  EXPECT_NO_THROW(generate(model_, *tokenizer_, "", {.tokens = 5, .temperature = 0}));
}

TEST_F(GenerateTest, RefusesOptionsOutOfRange) {
  EXPECT_THROW(text({.tokens = 0}), ConfigError);
  EXPECT_THROW(text({.temperature = -1}), ConfigError);
  EXPECT_THROW(text({.temperature = std::nan("")}), ConfigError);
  EXPECT_THROW(text({.top_p = 0}), ConfigError);
  EXPECT_THROW(text({.top_p = 1.1}), ConfigError);
  EXPECT_THROW(text({.top_k = -1}), ConfigError);
  EXPECT_THROW(text({.min_p = -0.1}), ConfigError);
  EXPECT_THROW(text({.min_p = 1.1}), ConfigError);
  EXPECT_THROW(text({.stop = {"a", ""}}), ConfigError);
}

// Against all tokens sorted: many, with equal ones among them.
TEST(SampleToken, OfManyTokens) {
  constexpr i64 kTokens = 3000;
  const Random random(3, "logits");
  std::vector<double> p, logits;
  std::vector<i32> order;
  double sum = 0;
  for (i64 i = 0; i < kTokens; ++i) {
    logits.push_back(std::floor(20 * random.uniform(std::uint64_t(i))) / 4);
    p.push_back(std::exp(logits.back()));
    sum += p.back();
    order.push_back(i32(i));
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](i32 a, i32 b) { return p[size_t(a)] > p[size_t(b)]; });
  const Tensor tensor = Tensor::from<double>({kTokens}, logits);
  for (const double top_p : {0.01, 0.5, 0.9, 1.0}) {
    size_t kept = 0;
    double mass = 0;
    while (kept < order.size() && mass < top_p * sum) mass += p[size_t(order[kept++])];
    for (int u = 0; u < 40; ++u) {
      const double uniform = (u + 0.5) / 40;
      double below = 0;
      size_t i = 0;
      while (i + 1 < kept && (below += p[size_t(order[i])]) <= uniform * mass) ++i;
      EXPECT_EQ(sample_token(tensor, {.temperature = 1, .top_p = top_p}, uniform), order[i])
          << top_p << " " << u;
    }
  }
}

// Probabilities 1/2, 1/4, 1/8, 1/8 at the ids 2, 0, 1, 3.
TEST(SampleToken, AtPointsWorkedOutByHand) {
  const Tensor logits =
      Tensor::from<double>({4}, std::vector{std::log(2.0), 0.0, std::log(4.0), 0.0});
  const GenerateOptions all{.temperature = 1, .top_p = 1};
  EXPECT_EQ(sample_token(logits, all, 0), 2);
  EXPECT_EQ(sample_token(logits, all, 0.49), 2);
  EXPECT_EQ(sample_token(logits, all, 0.51), 0);
  EXPECT_EQ(sample_token(logits, all, 0.74), 0);
  EXPECT_EQ(sample_token(logits, all, 0.76), 1);
  EXPECT_EQ(sample_token(logits, all, 0.88), 3);
  EXPECT_EQ(sample_token(logits, all, 0.999999), 3);
  // top_p 0.6 keeps two tokens, of 2/3 and 1/3; so does top_k 2.
  for (const GenerateOptions& two : {GenerateOptions{.temperature = 1, .top_p = 0.6},
                                     GenerateOptions{.temperature = 1, .top_p = 1, .top_k = 2}}) {
    EXPECT_EQ(sample_token(logits, two, 0.66), 2);
    EXPECT_EQ(sample_token(logits, two, 0.67), 0);
    EXPECT_EQ(sample_token(logits, two, 0.999999), 0);
  }
  // min_p 0.5 keeps those at least half as likely as the first, two of them.
  const GenerateOptions half{.temperature = 1, .top_p = 1, .min_p = 0.4999};
  EXPECT_EQ(sample_token(logits, half, 0.66), 2);
  EXPECT_EQ(sample_token(logits, half, 0.67), 0);
  EXPECT_EQ(sample_token(logits, half, 0.999999), 0);
  EXPECT_EQ(sample_token(logits, {.temperature = 1, .top_p = 1, .min_p = 1}, 0.999999), 2);
  // Temperature 1/2 squares the odds: 16 : 4 : 1 : 1.
  const GenerateOptions cold{.temperature = 0.5, .top_p = 1};
  EXPECT_EQ(sample_token(logits, cold, 15.9 / 22), 2);
  EXPECT_EQ(sample_token(logits, cold, 16.1 / 22), 0);
  EXPECT_EQ(sample_token(logits, cold, 20.1 / 22), 1);
  EXPECT_EQ(sample_token(logits, {.temperature = 0}, 0.999999), 2);
}

}  // namespace
}  // namespace quern
