// SPDX-License-Identifier: MIT
#include "quern/recipes/internal/run_saver.h"

#include <memory>
#include <utility>

#include "quern/data/atomic_file.h"

namespace quern {

RunSaver::RunSaver(std::filesystem::path run, const Recipe& recipe, std::string tokenizer_sha256,
                   const Communicator& ranks, RunSaverCalls calls)
    : run_(std::move(run)),
      recipe_(recipe),
      tokenizer_sha256_(std::move(tokenizer_sha256)),
      ranks_(ranks),
      calls_(std::move(calls)) {
  retention_.last = recipe.train.keep_checkpoints;
  retention_.every = recipe.train.keep_every;
}

bool RunSaver::has(i64 step) {
  finish(false);  // where that fails, the step is not saved
  if (step != taken_step_) return false;
  prune();
  return true;
}

void RunSaver::save(Trainer& trainer, bool must) {
  const bool behind = recipe_.train.background_save && !must;
  auto state = std::make_shared<const CheckpointSnapshot>(
      trainer.model(), trainer.optimizer(), trainer.progress(),
      CheckpointContext{to_text(recipe_), tokenizer_sha256_}, trainer.layout(), behind);
  taken_step_ = trainer.progress().step;
  under_way_.emplace(std::move(state), run_, ranks_, behind,
                     [run = run_] { sync_file(run / "metrics.jsonl"); });
  if (!behind) finish(must);
}

void RunSaver::look() {
  if (under_way_ && under_way_->is_over()) finish(false);
}

void RunSaver::finish(bool must) {
  if (!under_way_) return;
  const std::optional<ErrorFacts> fault = under_way_->finish();
  under_way_.reset();
  if (!fault) {
    saved_step_ = taken_step_;
    return prune();
  }
  const i64 step = std::exchange(taken_step_, -1);
  ErrorFacts facts = *fault;
  const std::string there = saved_step_ < 0 ? "nothing is saved yet"
                                            : "step " + std::to_string(saved_step_) + " is saved";
  facts.hint += (facts.hint.empty() ? "" : "; ") + there;
  if (must || recipe_.train.on_save_error == "halt") throw IoError(facts);
  calls_.not_saved(step, sentence(facts));
}

void RunSaver::prune() {
  if (ranks_.rank() != 0) return;
  retention_.best = calls_.best();
  prune_checkpoints(run_, saved_step_, retention_);
}

}  // namespace quern
