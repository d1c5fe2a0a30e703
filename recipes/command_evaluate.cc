// SPDX-License-Identifier: MIT
#include "quern/recipes/internal/command_evaluate.h"

#include <cmath>
#include <cstdio>
#include <iostream>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "quern/recipes/internal/open_model.h"
#include "quern/recipes/internal/units.h"
#include "quern/recipes/multiple_choice.h"
#include "quern/recipes/probe.h"

namespace quern {
namespace {

using nlohmann::ordered_json;

ordered_json number(double x) { return std::isfinite(x) ? ordered_json(x) : ordered_json(); }

// " (+- 0.012)", a standard error; nothing where it is not known.
std::string error_text(double error, int decimals) {
  if (!std::isfinite(error)) return "";
  return " (+- " + internal::fixed_text(error, decimals) + ")";
}

ordered_json json_of(const EvalMetrics& m) {
  ordered_json object{{"bits_per_byte", m.bits_per_byte},
                      {"standard_error", number(m.standard_error)},
                      {"loss", m.loss}};
  for (const auto& d : m.domains) {
    object["domains"].push_back({{"name", d.name},
                                 {"bits_per_byte", d.bits_per_byte},
                                 {"standard_error", number(d.standard_error)},
                                 {"bytes", d.bytes},
                                 {"tokens", d.tokens}});
  }
  for (size_t i = 0; i < m.by_position.size(); ++i) {
    object["by_position"].push_back({{"tokens_before", i + 1},
                                     {"tokens", m.by_position[i].tokens},
                                     {"loss", m.by_position[i].loss},
                                     {"standard_error", number(m.by_position[i].standard_error)}});
  }
  return object;
}

void print(const EvalMetrics& m) {
  std::printf("%.4f bits per byte%s, %.4f nats per token\n", m.bits_per_byte,
              error_text(m.standard_error, 4).c_str(), m.loss);
  for (const auto& d : m.domains) {
    std::printf("  %-24s %.4f bits per byte%s, %lld bytes\n", d.name.c_str(), d.bits_per_byte,
                error_text(d.standard_error, 4).c_str(), static_cast<long long>(d.bytes));
  }
  // Means over 1, 2 to 3, 4 to 7, ... tokens before.
  std::printf("nats per token by the number of tokens before it\n");
  for (size_t first = 1; first <= m.by_position.size(); first *= 2) {
    const size_t last = std::min(2 * first - 1, m.by_position.size());
    double nll = 0, tokens = 0;
    for (size_t i = first; i <= last; ++i) {
      nll += m.by_position[i - 1].loss * double(m.by_position[i - 1].tokens);
      tokens += double(m.by_position[i - 1].tokens);
    }
    if (tokens == 0) continue;
    const std::string range =
        std::to_string(first) + (last > first ? " to " + std::to_string(last) : "");
    std::printf("  %-24s %.4f\n", range.c_str(), nll / tokens);
  }
}

struct Answers {
  std::string file;
  MultipleChoiceMetrics metrics;
};

ordered_json json_of(const Answers& a) {
  const MultipleChoiceMetrics& m = a.metrics;
  ordered_json object{{"file", a.file},
                      {"questions", m.questions},
                      {"accuracy", m.accuracy},
                      {"standard_error", number(m.standard_error)},
                      {"accuracy_by_sum", m.accuracy_by_sum},
                      {"standard_error_by_sum", number(m.standard_error_by_sum)},
                      {"chance", m.chance}};
  for (const AnsweredQuestion& q : m.answered) {
    object["answered"].push_back({{"chosen", q.chosen},
                                  {"chosen_by_sum", q.chosen_by_sum},
                                  {"log_likelihood", q.log_likelihood}});
  }
  return object;
}

void print(const Answers& a) {
  const MultipleChoiceMetrics& m = a.metrics;
  std::printf(
      "%s: %.1f %%%s of %lld questions; by likelihood of the whole %.1f %%%s; by chance "
      "%.1f %%\n",
      a.file.c_str(), 100 * m.accuracy, error_text(100 * m.standard_error, 1).c_str(),
      static_cast<long long>(m.questions), 100 * m.accuracy_by_sum,
      error_text(100 * m.standard_error_by_sum, 1).c_str(), 100 * m.chance);
}

Answers answer_file(const Model& model, const Tokenizer& tokenizer, const std::string& file,
                    const std::vector<Question>& questions, const MultipleChoiceOptions& options) {
  try {
    return {file, answer_questions(model, tokenizer, questions, options)};
  } catch (const ConfigError& error) {
    ErrorFacts facts = error.facts();
    facts.file = file;
    throw ConfigError(std::move(facts));
  }
}

}  // namespace

void EvaluateCommand::define(CLI::App& app) {
  CLI::App* c = app.add_subcommand("evaluate",
                                   "Bits per byte of texts, answers to multiple-choice questions");
  c->footer(
      "Example:\n  quern evaluate build/example build/example_tokens/validation.h5\n"
      "A line of questions.jsonl, where the answer counts from 0:\n"
      "  {\"prompt\": \"2 and 2 are\", \"choices\": [\" 3\", \" 4\"], \"answer\": 1}");
  c->add_option("model", model, "a run, a step folder or a model.h5")->required();
  c->add_option("files", files,
                "token files made by `quern prepare`; *.jsonl: multiple-choice questions")
      ->required();
  c->add_option("--sequence-length", options.sequence_length,
                "tokens of a window; default: as in training")
      ->check(CLI::Range(2, 1 << 20));
  c->add_option("--max-tokens", options.max_tokens, "of each token file; 0: all")
      ->check(CLI::Range(i64(0), std::numeric_limits<i64>::max()))
      ->capture_default_str();
  c->add_flag("--chat", chat, "prompts are a user's, choices the assistant's answers");
  c->add_option("--adapter", adapters, "folders of `quern export-adapter`, merged into the model")
      ->take_all()
      ->allow_extra_args(false);
  c->add_option("--tokenizer", tokenizer, "a tokenizer.json for questions; default: the run's");
  cache.define(*c);
  c->add_option("--threads", threads, "0: one for each core")->capture_default_str();
  c->add_flag("--json", json, "print JSON");
  c->callback([this] { run(); });
}

void EvaluateCommand::run() {
  use_threads(threads);
  const ModelFile file = open_model(model);
  CheckpointInfo info = read_checkpoint_info(file);
  if (options.sequence_length == 0) {
    options.sequence_length = recipe_of(info, model).data.sequence_length;
  }
  // Everything is read before the first result.
  std::vector<std::shared_ptr<const TokenFile>> texts;
  std::vector<std::pair<std::string, std::vector<Question>>> questions;
  for (const std::string& f : files) {
    if (std::filesystem::path(f).extension() == ".jsonl") {
      questions.emplace_back(f, read_questions(f));
    } else {
      texts.push_back(std::make_shared<const TokenFile>(f, info.context.tokenizer_sha256));
    }
  }
  std::optional<Tokenizer> t;
  MultipleChoiceOptions asked{.chat = chat, .chat_template = {}, .before_batch = {}};
  if (chat) asked.chat_template = recipe_of(info, model).data.chat_template;
  if (!questions.empty()) t = load_tokenizer(tokenizer, model, info);
  info.model = cache.applied(info.model);
  const Model loaded = load_model(file, info, DType::f32, adapters);
  ordered_json object = ordered_json::object();
  std::optional<EvalMetrics> metrics;
  if (!texts.empty()) metrics = evaluate(loaded, texts, options);
  if (metrics && json) object = json_of(*metrics);
  if (metrics && !json) print(*metrics);
  for (const auto& [name, some] : questions) {
    const Answers answers = answer_file(loaded, *t, name, some, asked);
    if (json) {
      object["multiple_choice"].push_back(json_of(answers));
    } else {
      print(answers);
    }
  }
  if (json) std::cout << object.dump(2, ' ', false, ordered_json::error_handler_t::replace) << "\n";
}

}  // namespace quern
