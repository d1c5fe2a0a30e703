// SPDX-License-Identifier: MIT
#include "quern/recipes/dry_run.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <optional>

#include "quern/distributed/check_ep_size.h"
#include "quern/recipes/distillation.h"
#include "quern/recipes/finetune.h"
#include "quern/recipes/probe.h"
#include "quern/recipes/rank_layout.h"
#include "quern/recipes/trainer.h"

namespace quern {
namespace {

// As it will be with so many ranks.
Recipe shared_by(Recipe recipe, i64 ranks) {
  if (ranks == 1 && recipe.distributed.ep_size == 1) return recipe;
  check_ep_size(ranks, recipe.distributed.ep_size);
  if (recipe.train.lanes == 1) recipe.train.lanes = ranks;
  lanes_of_a_rank(recipe.train.lanes, ranks);
  validate(recipe);
  return recipe;
}

void add_memory(Figures& figures, const MemoryEstimate& m, i64 ranks) {
  if (ranks > 1) figures.push_back(count_figure("ranks", double(ranks)));
  figures.push_back(bytes_figure(ranks > 1 ? "memory of each (estimate)" : "memory (estimate)",
                                 double(m.total())));
  figures.push_back(bytes_figure("  of parameters", double(m.parameters)));
  figures.push_back(
      bytes_figure("  of gradients and moments", double(m.gradients + m.moments + m.lane_sums)));
  figures.push_back(bytes_figure("  of activations, beside these", double(m.activations)));
  if (m.teacher > 0) figures.push_back(bytes_figure("  of the teacher", double(m.teacher)));
}

void add_time(Figures& figures, const Recipe& recipe) {
  const StepProbe probe = probe_step(recipe, make_sampler(recipe), 5);
  const double tokens = double(recipe.train.batch_sequences * recipe.data.sequence_length);
  figures.push_back(duration_figure("seconds per step", probe.seconds_per_step));
  figures.push_back(count_figure("tokens per second", tokens / probe.seconds_per_step));
  const double steps = recipe.train.steps > 0
                           ? double(recipe.train.steps)
                           : recipe.train.target_minutes * 60 / probe.seconds_per_step;
  figures.push_back(count_figure("steps", std::floor(steps)));
  figures.push_back(duration_figure("training time", steps * probe.seconds_per_step));
  figures.push_back(bytes_figure("memory in use", double(probe.memory_bytes)));
}

// Patterns ask for the names of a model; where there is no room for one, at most.
i64 trained_numbers(const Recipe& recipe) {
  const FinetuneRecipe& f = recipe.finetune;
  const bool patterns = !f.frozen.empty() || !f.lora_targets.empty();
  if (!patterns || !fits_memory(recipe)) return count_trained(recipe);
  Model model(recipe.model);
  i64 count = 0;
  for (const Parameter* p : trained_parameters(model, recipe)) count += p->value.numel();
  return count;
}

// A third of training's, without modules that only training uses.
double forward_flops(ModelConfig config, i64 sequence_length) {
  config.num_nextn_predict_layers = 0;
  return flops_per_token(config, sequence_length) / 3;
}

}  // namespace

Figures dry_run(const Recipe& of_all, i64 ranks) {
  const Recipe recipe = shared_by(of_all, ranks);
  const RankLayout layout{ranks, recipe.distributed.ep_size};
  use_threads(recipe.train.threads);
  Figures figures = describe_model(recipe.model, recipe.data.sequence_length);
  std::optional<ModelConfig> teacher;
  if (!recipe.finetune.distill_from.empty()) {
    teacher = teacher_config(recipe);
    figures.push_back(count_figure("FLOPs per token of the teacher",
                                   forward_flops(*teacher, recipe.data.sequence_length)));
  }
  const i64 trained = trained_numbers(recipe);
  if (recipe.finetune.method != "full" || !recipe.finetune.frozen.empty()) {
    figures.push_back(
        recipe.finetune.method == "experts" && recipe.finetune.experts_file.empty()
            ? text_figure("trained parameters", "unknown: experts are not selected yet")
            : count_figure("trained parameters", double(trained)));
  }
  MemoryEstimate memory = estimate_memory(recipe, trained, layout);
  if (teacher) memory.teacher = teacher_bytes(recipe, *teacher);
  add_memory(figures, memory, ranks);
  const auto missing =
      std::find_if(recipe.data.train.begin(), recipe.data.train.end(),
                   [](const TrainSource& s) { return !std::filesystem::exists(s.path); });
  if (missing != recipe.data.train.end()) {
    figures.push_back(text_figure("training time", "unknown: there is no " + missing->path));
  } else if (ranks > 1) {
    figures.push_back(
        text_figure("training time", "see `quern doctor --network --ranks N --recipe RECIPE`"));
  } else if (!fits_memory(recipe)) {
    figures.push_back(text_figure("training time", "unknown: too large for this machine"));
  } else {
    add_time(figures, recipe);
  }
  return figures;
}

}  // namespace quern
