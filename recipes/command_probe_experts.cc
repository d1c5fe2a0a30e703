// SPDX-License-Identifier: MIT
#include "quern/recipes/internal/command_probe_experts.h"

#include <iostream>
#include <limits>

#include "quern/data/atomic_file.h"
#include "quern/recipes/internal/open_model.h"
#include "quern/recipes/probe.h"
#include "quern/recipes/specialisation.h"

namespace quern {

void ProbeExpertsCommand::define(CLI::App& app) {
  CLI::App* c = app.add_subcommand(
      "probe-experts", "What is lost without the best experts, shared ones, or active ones");
  c->footer(
      "Example:\n  quern probe-experts build/example build/example_tokens/validation.h5 "
      "--out build/probes.html");
  c->add_option("model", model, "a run, a step folder or a model.h5")->required();
  c->add_option("files", files, "token files made by `quern prepare`")->required();
  c->add_option("--against", against, "another model of the same tokenizer; as often as you like")
      ->take_all()
      ->allow_extra_args(false);
  c->add_option("--sequence-length", options.sequence_length,
                "tokens of a window; default: as in training")
      ->check(CLI::Range(2, 1 << 20));
  c->add_option("--max-tokens", options.max_tokens, "of each token file; 0: all")
      ->check(CLI::Range(i64(0), std::numeric_limits<i64>::max()))
      ->capture_default_str();
  c->add_option("--out", out, "a page with plots, in HTML");
  c->add_option("--threads", threads, "0: one for each core")->capture_default_str();
  c->add_flag("--json", json, "print JSON");
  c->callback([this] { run(); });
}

void ProbeExpertsCommand::run() {
  use_threads(threads);
  std::vector<std::string> paths = {model};
  paths.insert(paths.end(), against.begin(), against.end());
  std::vector<std::shared_ptr<const TokenFile>> texts;
  std::vector<NamedProbes> all;
  for (const std::string& path : paths) {
    const ModelFile file = open_model(path);
    const CheckpointInfo info = read_checkpoint_info(file);
    EvaluateOptions evaluation = options;
    if (evaluation.sequence_length == 0) {
      evaluation.sequence_length = recipe_of(info, path).data.sequence_length;
    }
    texts.clear();  // read anew, to compare the tokenizer
    for (const std::string& f : files) {
      texts.push_back(std::make_shared<const TokenFile>(f, info.context.tokenizer_sha256));
    }
    Model loaded = load_model(file, info);
    all.push_back({path, probe_specialisation(loaded, texts, evaluation)});
  }
  if (!out.empty()) write_file_atomically(out, html_of(all));
  std::cout << (json ? json_of(all) : table_of(all));
}

}  // namespace quern
