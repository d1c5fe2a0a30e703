// SPDX-License-Identifier: MIT
#include "quern/recipes/internal/command_merge_adapters.h"

#include "quern/recipes/apply_adapter.h"
#include "quern/recipes/internal/open_model.h"

namespace quern {

void MergeAdaptersCommand::define(CLI::App& app) {
  CLI::App* c = app.add_subcommand("merge-adapters", "A model with what fine-tuning has trained");
  c->footer(
      "Example:\n  quern merge-adapters build/quickstart build/adapter1 build/adapter2 --out "
      "build/merged");
  c->add_option("model", model,
                "a run, a step folder or a model.h5; updates of its own are merged too")
      ->required();
  c->add_option("adapters", adapters,
                "folders of `quern export-adapter`, without a matrix in common");
  c->add_option("--out", out, "a new run folder, for train.init_from, generate and evaluate")
      ->required();
  c->callback([this] { run(); });
}

void MergeAdaptersCommand::run() const {
  const ModelFile file = open_model(model);
  const Tokenizer tokenizer = load_tokenizer("", model, read_checkpoint_info(file));
  merge_adapters(file, adapters, out);
  tokenizer.save(std::filesystem::path(out) / "tokenizer.json");
}

}  // namespace quern
