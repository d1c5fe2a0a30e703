// SPDX-License-Identifier: MIT
// Multiple choice: likelihoods against whole logits, and what is made of them.
#include "quern/recipes/multiple_choice.h"

#include <gtest/gtest.h>

#include <cmath>

#include "quern/data/chat_template.h"
#include "tests/recipes/run_fixture.h"
#include "tests/support/toy_model.h"

namespace quern {
namespace {

class MultipleChoiceTest : public ::testing::Test {
 protected:
  MultipleChoiceTest() : model_(testing::with_vocabulary(testing::toy_config(), 320), DType::f64) {
    testing::prepare_corpus(dir_, "corpus");
    tokenizer_ = Tokenizer::load(dir_ / "corpus/tokenizer.json");
    testing::randomise(model_);
  }

  // log p of ids[first, ...) given those before, one row of logits at a time.
  double by_hand(const std::vector<i32>& ids, size_t first) const {
    const Tensor logits = testing::logits_of(model_, Tensor::from<i32>({1, i64(ids.size())}, ids));
    double sum = 0;
    for (size_t i = first; i < ids.size(); ++i) {
      const auto row = logits.rows(i64(i) - 1, i64(i)).span<double>();
      double total = 0;
      for (const double z : row) total += std::exp(z);
      sum += row[size_t(ids[i])] - std::log(total);
    }
    return sum;
  }
  double by_hand(const std::string& prompt, const std::string& choice) const {
    std::vector<i32> ids = {tokenizer_->special_id(kEosToken).value()};
    for (const i32 id : tokenizer_->encode(prompt)) ids.push_back(id);
    const size_t first = ids.size();
    for (const i32 id : tokenizer_->encode(choice)) ids.push_back(id);
    return by_hand(ids, first);
  }

  TempDir dir_;
  Model model_;
  std::optional<Tokenizer> tokenizer_;
  const std::vector<Question> questions_ = {
      {"the sea", {" rose", " is a long answer about nothing at all", " x"}, 1},
      {"", {"the", "a much longer beginning of a text"}, 0},
      {"a prompt that is longer than all the others, of many words", {" 1", " two", " tres"}, 2},
  };
};

TEST_F(MultipleChoiceTest, LikelihoodsAreThoseOfWholeLogits) {
  for (const i64 batch : {1, 40, 100000}) {
    const MultipleChoiceMetrics m =
        answer_questions(model_, *tokenizer_, questions_, {.batch_tokens = batch});
    ASSERT_EQ(m.answered.size(), 3u);
    double right = 0, right_by_sum = 0;
    for (size_t q = 0; q < 3; ++q) {
      i64 best = 0, best_sum = 0;
      const auto& choices = questions_[q].choices;
      std::vector<double> sums;
      for (const std::string& choice : choices) {
        sums.push_back(by_hand(questions_[q].prompt, choice));
        EXPECT_NEAR(m.answered[q].log_likelihood[sums.size() - 1], sums.back(), 1e-9);
      }
      for (size_t i = 0; i < sums.size(); ++i) {
        const auto mean = [&](i64 c) {
          return sums[size_t(c)] / double(choices[size_t(c)].size());
        };
        if (mean(i64(i)) > mean(best)) best = i64(i);
        if (sums[i] > sums[size_t(best_sum)]) best_sum = i64(i);
      }
      EXPECT_EQ(m.answered[q].chosen, best);
      EXPECT_EQ(m.answered[q].chosen_by_sum, best_sum);
      right += best == questions_[q].answer;
      right_by_sum += best_sum == questions_[q].answer;
    }
    EXPECT_NEAR(m.accuracy, right / 3, 1e-12);
    EXPECT_NEAR(m.accuracy_by_sum, right_by_sum / 3, 1e-12);
    EXPECT_NEAR(m.standard_error, std::sqrt(m.accuracy * (1 - m.accuracy) / 2), 1e-12);
    EXPECT_NEAR(m.chance, (1 / 3.0 + 1 / 2.0 + 1 / 3.0) / 3, 1e-12);
  }
}

// Every token is equally likely: the choice of fewest tokens is likeliest as a whole, the one of
// most bytes to a token by its bytes.
TEST_F(MultipleChoiceTest, LengthIsNormalisedByBytes) {
  model_.lm_head.value.fill(0);
  const std::vector<Question> even = {{"the", {" q", " qqqqqqqq"}, 1}};
  const MultipleChoiceMetrics m = answer_questions(model_, *tokenizer_, even);
  const auto tokens = [&](const char* text) { return double(tokenizer_->encode(text).size()); };
  const double nats = std::log(320.0);
  EXPECT_NEAR(m.answered[0].log_likelihood[0], -tokens(" q") * nats, 1e-9);
  EXPECT_NEAR(m.answered[0].log_likelihood[1], -tokens(" qqqqqqqq") * nats, 1e-9);
  ASSERT_LE(tokens(" qqqqqqqq") / 9, tokens(" q") / 2);
  EXPECT_EQ(m.answered[0].chosen_by_sum, 0);
  EXPECT_EQ(m.accuracy_by_sum, 0);
  EXPECT_TRUE(std::isnan(m.standard_error));
}

TEST_F(MultipleChoiceTest, AChatsChoiceIsTheWholeAnswer) {
  const std::vector<Question> one = {{"the sea", {"rose", "fell deep"}, 1}};
  const MultipleChoiceMetrics m =
      answer_questions(model_, *tokenizer_, one, {.chat = true, .before_batch = {}});
  const ChatTemplate chat(*tokenizer_, "tokenizer");
  Encoder encoder(*tokenizer_);
  for (size_t i = 0; i < 2; ++i) {
    const ChatTurn turn{ChatRole::user, "the sea"};
    std::vector<i32> ids = chat.encode_prompt(std::span(&turn, 1), encoder);
    const size_t first = ids.size();
    encoder.encode(one[0].choices[i], AddedTokens::kIgnore, ids);
    ids.push_back(chat.end_of_turn());
    EXPECT_NEAR(m.answered[0].log_likelihood[i], by_hand(ids, first), 1e-9);
  }
}

TEST_F(MultipleChoiceTest, AQuestionHasToFit) {
  model_.config.max_position_embeddings = 8;
  try {
    answer_questions(model_, *tokenizer_, questions_);
    FAIL() << "no error";
  } catch (const ConfigError& error) {
    EXPECT_EQ(error.facts().key, "question 1");
    EXPECT_EQ(error.facts().expected, "at most 8 tokens");
  }
}

TEST_F(MultipleChoiceTest, ReadsRows) {
  dir_.file(
      "q.jsonl",
      "\n{\"answer\": 1, \"prompt\": \"p\\u00e9\", \"choices\": [\"a\", \"b\"], \"id\": 7}\r\n"
      "{\"prompt\": \"\", \"choices\": [\" x\", \" y\", \" z\"], \"answer\": 0}");
  const auto rows = read_questions(dir_ / "q.jsonl");
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0].prompt, "p\xC3\xA9");
  EXPECT_EQ(rows[0].choices, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(rows[0].answer, 1);
  EXPECT_EQ(rows[1].choices[2], " z");
}

}  // namespace
}  // namespace quern
