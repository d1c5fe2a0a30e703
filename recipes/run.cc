// SPDX-License-Identifier: MIT
#include "quern/recipes/run.h"

#include <cstdio>

#include "quern/data/atomic_file.h"
#include "quern/recipes/checkpoint.h"
#include "quern/recipes/describe.h"
#include "quern/recipes/finetune.h"
#include "quern/recipes/internal/fresh_folder.h"
#include "quern/recipes/internal/run_lock.h"
#include "quern/recipes/internal/run_loop.h"
#include "quern/recipes/probe.h"
#include "quern/recipes/rank_layout.h"
#include "quern/recipes/stop_signal.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

// Everything about the recipe that the start of a run decides. Throws StopRequested.
void settle(Recipe& recipe, const RunInputs& data, const fs::path& run, const Communicator& ranks) {
  settle_lanes(recipe, ranks.size());
  recipe.train.dtype = resolved_dtype(recipe.train);
  settle_chat_template(recipe, *data.sampler);
  settle_finetuning(recipe, *data.sampler->sources()[0].file, run);
  if (std::string& teacher = recipe.finetune.distill_from; !teacher.empty()) {
    teacher = find_model_file(teacher).path.string();  // a run that may go on meanwhile
  }
  if (recipe.train.steps == 0) choose_steps(recipe, data.sampler, ranks.size());
  validate(recipe);
}

ExitCode begin_run(Recipe recipe, const fs::path& run, const StepHooks& hooks,
                   const Communicator& ranks) {
  refuse_a_second_run(run);
  check_memory(recipe, {ranks.size(), recipe.distributed.ep_size});
  make_paths_absolute(recipe);
  RunInputs data = open_inputs(recipe);
  FreshFolder folder(run);
  const RunLock lock(run);
  refuse_a_second_run(run);  // that was begun meanwhile
  try {
    settle(recipe, data, run, ranks);
  } catch (const StopRequested&) {
    ranks.broadcast("", 0);
    std::printf("stopped by a signal before the first step; nothing is saved. Start it again\n");
    return ExitCode::kInterrupted;
  }
  ranks.broadcast(to_text(recipe), 0);
  const std::optional<Tokenizer> tokenizer = data.tokenizer;
  Run started(recipe, run, std::move(data), hooks, ranks);
  if (tokenizer) tokenizer->save(run / "tokenizer.json");
  write_corpus_hashes(run, recipe);
  // From here on the folder holds a run, whose files are known to fit together.
  write_file_atomically(run / "recipe.textproto", to_text(recipe));
  folder.keep();
  return started.go();
}

// What the other ranks do meanwhile. No recipe means that nothing begins.
ExitCode take_part(const fs::path& run, const StepHooks& hooks, const Communicator& ranks) {
  const std::string text = ranks.broadcast("", 0);
  if (text.empty()) return ExitCode::kDone;
  const Recipe recipe = parse_recipe(text, (run / "recipe.textproto").string());
  use_threads(recipe.train.threads);
  return Run(recipe, run, open_inputs(recipe), hooks, ranks).go();
}

}  // namespace

ExitCode train_run(Recipe recipe, const fs::path& run, const StepHooks& hooks,
                   const Communicator& ranks) {
  const StopSignals signals;
  use_threads(recipe.train.threads);
  if (ranks.rank() != 0) return take_part(run, hooks, ranks);
  return begin_run(std::move(recipe), run, hooks, ranks);
}

ExitCode resume_run(const fs::path& run, const StepHooks& hooks, const Communicator& ranks) {
  const StopSignals signals;
  if (ranks.rank() != 0) return take_part(run, hooks, ranks);
  if (!fs::exists(run / "recipe.textproto")) {
    throw ConfigError({.file = run.string(),
                       .what = "no run in this folder",
                       .hint = "`quern train RECIPE --run-dir " + run.string() + "` starts one"});
  }
  const RunLock lock(run);
  if (fs::exists(run / "finished")) {
    ranks.broadcast("", 0);
    std::printf("this run is finished. Report: %s\n", (run / "report.html").c_str());
    return ExitCode::kDone;
  }
  const Recipe recipe = load_recipe((run / "recipe.textproto").string());
  check_ranks(recipe, ranks.size());
  use_threads(recipe.train.threads);
  RunInputs inputs = open_inputs(recipe);
  check_corpus_hashes(run, recipe);
  ranks.broadcast(to_text(recipe), 0);
  return Run(recipe, run, std::move(inputs), hooks, ranks).go();
}

}  // namespace quern
