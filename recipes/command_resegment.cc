// SPDX-License-Identifier: MIT
#include "quern/recipes/internal/command_resegment.h"

#include <cstdio>
#include <filesystem>
#include <limits>

#include "quern/autograd/error.h"
#include "quern/data/atomic_file.h"
#include "quern/layers/internal/check_range.h"
#include "quern/layers/resegment.h"
#include "quern/recipes/internal/fresh_folder.h"
#include "quern/recipes/internal/open_model.h"

namespace quern {

namespace fs = std::filesystem;

void ResegmentCommand::define(CLI::App& app) {
  CLI::App* c =
      app.add_subcommand("resegment", "Finer experts for a trained model, by cutting its");
  c->footer(
      "Example:\n  quern resegment build/example --factor 2 --out build/finer\n"
      "  quern train build/finer/recipe.textproto --run-dir build/finer_trained");
  c->add_option("model", model, "a run, a step folder or a model.h5")->required();
  c->add_option("--factor", factor, "the segments of each routed expert")->required();
  c->add_option("--noise", noise,
                "of the gate rows, as a share of their size; with 0 the model computes the same")
      ->capture_default_str();
  c->add_option("--seed", seed, "of the noise")
      ->check(CLI::Range(std::int64_t(0), std::numeric_limits<std::int64_t>::max()))
      ->capture_default_str();
  c->add_option("--out", out,
                "a new folder: a checkpoint, and the recipe.textproto of a run that starts from it")
      ->required();
  c->callback([this] { run(); });
}

void ResegmentCommand::run() const {
  if (!(noise >= 0 && noise <= 1)) {
    internal::refuse("--noise", "0 to 1", internal::to_text(noise), "as in --noise 0.01");
  }
  const ModelFile file = open_model(model);
  const CheckpointInfo info = read_checkpoint_info(file);
  Recipe recipe = recipe_of(info, model);
  recipe.model = resegmented(recipe.model, factor);
  const fs::path folder = fs::absolute(out).lexically_normal();
  if (!list_checkpoints(folder).empty() || fs::exists(folder / "recipe.textproto")) {
    throw ConfigError({.file = out, .what = "is a run already", .hint = "name a new folder"});
  }
  FreshFolder fresh(folder);
  Model from = load_model(file, info), to(recipe.model);
  resegment(from, to, factor, noise, std::uint64_t(seed));
  recipe.train.init_from = folder.string();
  recipe.finetune = {};
  const std::string text = to_text(recipe);
  save_checkpoint(folder, to, AdamW({}, {}, {}), info.progress,
                  {text, info.context.tokenizer_sha256});
  write_file_atomically(folder / "recipe.textproto", text);
  fresh.keep();
  std::printf("%lld experts of width %lld, %lld of them for a token: %s\n",
              static_cast<long long>(recipe.model.n_routed_experts),
              static_cast<long long>(recipe.model.moe_intermediate_size),
              static_cast<long long>(recipe.model.num_experts_per_tok), out.c_str());
}

}  // namespace quern
