// SPDX-License-Identifier: MIT
#include "quern/recipes/multiple_choice.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "quern/autograd/ops/loss.h"
#include "quern/data/atomic_file.h"
#include "quern/data/chat_template.h"
#include "quern/data/internal/bounded_json.h"
#include "quern/data/internal/json_checks.h"
#include "quern/recipes/internal/spread.h"

namespace quern {
namespace {

using nlohmann::json;

constexpr i64 kMaxBytes = i64(256) << 20;
constexpr size_t kMaxChoices = 1000;

struct QuestionReader {
  const std::string& file;
  int line;

  [[noreturn]] void refuse(const std::string& key, const std::string& expected,
                           const json& actual) const {
    throw DataError(
        {.file = file,
         .line = line,
         .column = 1,
         .key = key,
         .expected = expected,
         .actual = actual.is_null()    ? "nothing"
                   : actual.is_array() ? "a list of " + std::to_string(actual.size())
                                       : shown(actual),
         .hint = R"(as in {"prompt": "2 and 2 are", "choices": [" 3", " 4"], "answer": 1})"});
  }

  json member(const json& row, const char* key) const {
    const auto found = row.find(key);
    return found == row.end() ? json() : *found;
  }

  Question read(const json& row) const {
    if (!row.is_object()) refuse("", "an object", row);
    Question q;
    const json prompt = member(row, "prompt"), choices = member(row, "choices"),
               answer = member(row, "answer");
    if (!prompt.is_string()) refuse("prompt", "a string", prompt);
    q.prompt = prompt.get<std::string>();
    if (!choices.is_array() || choices.size() < 2 || choices.size() > kMaxChoices) {
      refuse("choices", "a list of 2 to " + std::to_string(kMaxChoices) + " strings", choices);
    }
    for (size_t i = 0; i < choices.size(); ++i) {
      if (!choices[i].is_string() || choices[i].get<std::string>().empty()) {
        refuse("choices[" + std::to_string(i) + "]", "a string that is not empty", choices[i]);
      }
      q.choices.push_back(choices[i].get<std::string>());
    }
    const std::string range = "0 to " + std::to_string(choices.size() - 1);
    if (!answer.is_number_integer() || answer < 0 || answer >= choices.size()) {
      refuse("answer", range, answer);
    }
    q.answer = answer.get<i64>();
    return q;
  }
};

// A prompt with one of its choices.
struct Candidate {
  std::vector<i32> ids;
  size_t first = 0;  // of the choice's tokens
  double* log_likelihood = nullptr;
};

class Candidates {
 public:
  Candidates(const Tokenizer& tokenizer, const Model& model, const MultipleChoiceOptions& options)
      : encoder_(tokenizer),
        eos_(tokenizer.special_id(kEosToken)),
        longest_(model.config.max_position_embeddings) {
    if (options.chat) chat_.emplace(tokenizer, "tokenizer", options.chat_template);
  }

  Candidate make(const Question& q, size_t number, size_t choice) {
    Candidate c{.ids = prompt_of(q)};
    c.first = c.ids.size();
    encoder_.encode(q.choices[choice], AddedTokens::kIgnore, c.ids);
    if (chat_) c.ids.push_back(chat_->end_of_turn());
    const std::string key = "question " + std::to_string(number + 1);
    if (i64(c.ids.size()) > longest_) {
      throw ConfigError({.key = key,
                         .what = "longer than the model's max_position_embeddings",
                         .expected = "at most " + std::to_string(longest_) + " tokens",
                         .actual = std::to_string(c.ids.size()),
                         .hint = "shorten the prompt"});
    }
    if (c.first == 0) {
      throw ConfigError({.key = key,
                         .what = "an empty prompt",
                         .hint = "this tokenizer has no <|eos|> to begin with"});
    }
    return c;
  }

 private:
  std::vector<i32> prompt_of(const Question& q) {
    if (chat_) {
      const ChatTurn turn{ChatRole::user, q.prompt};
      return chat_->encode_prompt(std::span(&turn, 1), encoder_);
    }
    std::vector<i32> ids;
    if (eos_) ids.push_back(*eos_);
    encoder_.encode(q.prompt, AddedTokens::kRecognise, ids);
    return ids;
  }

  Encoder encoder_;
  std::optional<i32> eos_;
  i64 longest_;
  std::optional<ChatTemplate> chat_;
};

// One a row, the shorter ones padded behind, where nothing before sees it.
void score(const Model& model, std::span<const Candidate> batch) {
  size_t width = 0;
  for (const Candidate& c : batch) width = std::max(width, c.ids.size() - 1);
  const Shape shape{i64(batch.size()), i64(width)};
  const Tensor tokens = Tensor::zeros(shape, DType::i32);
  const Tensor labels = Tensor::full(shape, DType::i32, ops::kIgnoredLabel);
  for (size_t row = 0; row < batch.size(); ++row) {
    const Candidate& c = batch[row];
    std::copy(c.ids.begin(), c.ids.end() - 1, tokens.data<i32>() + row * width);
    std::copy(c.ids.begin() + i64(c.first), c.ids.end(),
              labels.data<i32>() + row * width + c.first - 1);
  }
  Tape silent(false);
  const ModelOutput out = model.forward(silent, tokens);
  const Tensor nll = ops::linear_cross_entropy(silent, out.hidden, silent.parameter(model.head()),
                                               labels.reshape({labels.numel()}), 1)
                         .nll;
  for (size_t row = 0; row < batch.size(); ++row) {
    *batch[row].log_likelihood = 0;
    for (size_t i = batch[row].first - 1; i + 1 < batch[row].ids.size(); ++i) {
      *batch[row].log_likelihood -= nll.data<double>()[row * width + i];
    }
  }
}

// Scores a batch of candidates whenever there are enough.
class Batcher {
 public:
  Batcher(const Model& model, const MultipleChoiceOptions& options)
      : model_(model), options_(options) {}

  void add(Candidate c) {
    const size_t width = std::max(width_, c.ids.size());
    if (!batch_.empty() && i64(width * (batch_.size() + 1)) > options_.batch_tokens) flush();
    width_ = std::max(width_, c.ids.size());
    batch_.push_back(std::move(c));
  }
  void flush() {
    if (batch_.empty()) return;
    if (options_.before_batch) options_.before_batch();
    score(model_, batch_);
    batch_.clear();
    width_ = 0;
  }

 private:
  const Model& model_;
  const MultipleChoiceOptions& options_;
  std::vector<Candidate> batch_;
  size_t width_ = 0;
};

void choose(const Question& q, AnsweredQuestion& a) {
  const auto& sums = a.log_likelihood;
  std::vector<double> means;
  for (size_t i = 0; i < sums.size(); ++i) means.push_back(sums[i] / double(q.choices[i].size()));
  a.chosen = std::ranges::max_element(means) - means.begin();
  a.chosen_by_sum = std::ranges::max_element(sums) - sums.begin();
}

}  // namespace

std::vector<Question> read_questions(const std::filesystem::path& path) {
  const std::string text = read_file(path, kMaxBytes), file = path.string();
  std::vector<Question> questions;
  int number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = std::string_view(text).substr(begin, end - begin);
    begin = end + 1;
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    questions.push_back(
        QuestionReader{file, number}.read(parse_bounded_json(line, file, {}, number)));
  }
  if (questions.empty()) {
    throw DataError({.file = file,
                     .what = "there are no questions in it",
                     .hint = R"(a line is {"prompt": ..., "choices": [...], "answer": 0})"});
  }
  return questions;
}

MultipleChoiceMetrics answer_questions(const Model& model, const Tokenizer& tokenizer,
                                       const std::vector<Question>& questions,
                                       const MultipleChoiceOptions& options) {
  MultipleChoiceMetrics m{.questions = i64(questions.size())};
  m.answered.resize(questions.size());
  Candidates candidates(tokenizer, model, options);
  Batcher batcher(model, options);
  for (size_t q = 0; q < questions.size(); ++q) {
    m.answered[q].log_likelihood.resize(questions[q].choices.size());
    for (size_t i = 0; i < questions[q].choices.size(); ++i) {
      Candidate c = candidates.make(questions[q], q, i);
      c.log_likelihood = &m.answered[q].log_likelihood[i];
      batcher.add(std::move(c));
    }
  }
  batcher.flush();
  internal::Spread right, right_by_sum;
  for (size_t q = 0; q < questions.size(); ++q) {
    choose(questions[q], m.answered[q]);
    right.add(m.answered[q].chosen == questions[q].answer);
    right_by_sum.add(m.answered[q].chosen_by_sum == questions[q].answer);
    m.chance += 1 / double(questions[q].choices.size()) / double(questions.size());
  }
  m.accuracy = right.mean();
  m.standard_error = right.standard_error();
  m.accuracy_by_sum = right_by_sum.mean();
  m.standard_error_by_sum = right_by_sum.standard_error();
  return m;
}

}  // namespace quern
