// SPDX-License-Identifier: MIT
// Questions with several answers, of which the likeliest is taken for the model's.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "quern/data/tokenizer.h"
#include "quern/layers/model.h"

namespace quern {

// A line of JSONL: {"prompt": "2 and 2 are", "choices": [" 3", " 4"], "answer": 1}. The answer
// counts from 0, other keys are ignored. A choice follows the prompt as it stands, so it begins
// with a space where one belongs.
struct Question {
  std::string prompt;  // may be empty
  std::vector<std::string> choices;
  i64 answer = 0;
};

// Throws DataError, with file and line, for what is no such row, and for a file without any.
std::vector<Question> read_questions(const std::filesystem::path& path);

struct MultipleChoiceOptions {
  bool chat = false;          // the prompt is a question by ChatTemplate, a choice the whole answer
  std::string chat_template;  // with `chat`: the ChatFormat; empty: quern
  i64 batch_tokens = 2048;    // at once; one choice may be longer
  std::function<void()> before_batch;  // what it throws ends the work
};

struct AnsweredQuestion {
  std::vector<double> log_likelihood;  // of each choice given the prompt, nats
  i64 chosen = 0;                      // by log-likelihood per byte; ties to the first
  i64 chosen_by_sum = 0;               // by log-likelihood alone
};

struct MultipleChoiceMetrics {
  i64 questions = 0;
  double accuracy = 0;  // of log-likelihood over the bytes of the choice, whatever the tokenizer
  double standard_error = 0;
  double accuracy_by_sum = 0;  // of log-likelihood alone, which prefers short choices
  double standard_error_by_sum = 0;
  double chance = 0;  // what guessing reaches
  std::vector<AnsweredQuestion> answered;
};

// Prompt and choice are encoded apart, after the <|eos|> that begins a document. Standard errors
// take questions for independent, and are NaN for one. Throws ConfigError for a question that is
// longer than the model's max_position_embeddings.
MultipleChoiceMetrics answer_questions(const Model& model, const Tokenizer& tokenizer,
                                       const std::vector<Question>& questions,
                                       const MultipleChoiceOptions& options = {});

}  // namespace quern
