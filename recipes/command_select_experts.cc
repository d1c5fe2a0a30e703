// SPDX-License-Identifier: MIT
#include "quern/recipes/internal/command_select_experts.h"

#include <cstdio>
#include <iostream>
#include <limits>

#include "quern/data/atomic_file.h"
#include "quern/layers/internal/check_range.h"
#include "quern/recipes/checkpoint.h"
#include "quern/recipes/probe.h"
#include "quern/recipes/recipe.h"

namespace quern {

void SelectExpertsCommand::define(CLI::App& app) {
  CLI::App* c = app.add_subcommand("select-experts",
                                   "Which experts have most to do with a text, for fine-tuning");
  c->footer(
      "Examples:\n  quern select-experts build/run build/tokens/train.h5 --out experts.json\n"
      "  quern select-experts --scores expert_scores.json --threshold 0.1");
  c->add_option("model", model, "a run, a step folder or a model.h5");
  c->add_option("text", text, "a token file");
  c->add_option("--scores", scores_file, "instead of these two: scores that were written before");
  c->add_option("--score", score, "token: the share of choices; gate: the mean weight")
      ->capture_default_str();
  c->add_option("--threshold", threshold, "the scores of a layer's selected experts reach so much")
      ->capture_default_str();
  c->add_option("--average", average, "sample: over each document, then these; token: over all")
      ->capture_default_str();
  c->add_option("--tokens", options.tokens, "how many tokens are looked at")
      ->check(CLI::Range(i64(1), std::numeric_limits<i64>::max()))
      ->capture_default_str();
  c->add_option("--sequence-length", options.sequence_length,
                "of the windows; default: as in training")
      ->check(CLI::Range(2, 1 << 20));
  c->add_flag("--shared-experts", shared_experts, "shared experts are trained as well");
  c->add_flag("--non-expert-modules", non_expert_modules, "so is all that is no expert");
  c->add_option("--out", out, "where the selection goes; else it is printed");
  c->add_option("--scores-out", scores_out, "where the scores go");
  c->callback([this] { run(); });
}

ExpertScores SelectExpertsCommand::scores() {
  if (!scores_file.empty()) {
    if (model.empty()) return read_expert_scores(scores_file);
    throw ConfigError({.key = "--scores",
                       .what = "stands for a model and a text, and there are both",
                       .hint = "leave one out"});
  }
  if (model.empty() || text.empty()) {
    throw ConfigError({.what = "a model and a token file are needed",
                       .hint = "or --scores with those that were written before"});
  }
  use_threads(0);
  const ModelFile file = find_model_file(model);
  const CheckpointInfo info = read_checkpoint_info(file);
  if (options.sequence_length == 0) {
    options.sequence_length = parse_recipe(info.context.recipe, model).data.sequence_length;
  }
  const TokenFile tokens(text, info.context.tokenizer_sha256);
  Model weights(info.model);
  load_weights(file, weights);
  return score_experts(weights, tokens, options);
}

void SelectExpertsCommand::run() {
  internal::check_word("--score", score, {"token", "gate"});
  internal::check_word("--average", average, {"sample", "token"});
  internal::check_range("--threshold", threshold, 1e-6, 1.0);
  options.average =
      average == "token" ? ScoreOptions::Average::token : ScoreOptions::Average::sample;
  const ExpertScores all = scores();
  ExpertSelection selection = select_experts(score == "gate" ? all.gate : all.token, threshold);
  selection.shared_experts = shared_experts;
  selection.non_expert_modules = non_expert_modules;
  if (!scores_out.empty()) write_file_atomically(scores_out, to_json(all));
  if (out.empty()) {
    std::cout << to_json(selection);
    return;
  }
  write_file_atomically(out, to_json(selection));
  for (const auto& [layer, experts] : selection.experts) {
    std::printf("layer %lld: %zu of %zu experts\n", static_cast<long long>(layer), experts.size(),
                all.token.at(layer).size());
  }
}

}  // namespace quern
