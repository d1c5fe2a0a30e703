// SPDX-License-Identifier: MIT
#include "quern/recipes/internal/run_saver.h"

#include <chrono>
#include <memory>

#include "quern/data/atomic_file.h"
#include "quern/recipes/checkpoint.h"

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
  if (ranks_.any(step != taken_step_)) return false;
  if (ranks_.rank() == 0) prune();
  return true;
}

void RunSaver::save(Trainer& trainer, bool must) {
  const bool behind = recipe_.train.background_save && !must;
  auto state = std::make_shared<const CheckpointSnapshot>(
      trainer.model(), trainer.optimizer(), trainer.progress(),
      CheckpointContext{to_text(recipe_), tokenizer_sha256_}, trainer.layout(), behind);
  under_way_ = taken_step_ = trainer.progress().step;
  if (ranks_.rank() != 0) return;
  done_ = std::async(behind ? std::launch::async : std::launch::deferred, [state, run = run_] {
    sync_file(run / "metrics.jsonl");
    state->write(run);
  });
  if (!behind) finish(must);
}

void RunSaver::look() {
  const auto now = std::chrono::seconds(0);
  if (done_.valid() && done_.wait_for(now) == std::future_status::ready) finish(false);
}

void RunSaver::finish(bool must) {
  if (!done_.valid()) return;
  try {
    done_.get();
  } catch (const IoError& error) {
    taken_step_ = -1;
    ErrorFacts facts = error.facts();
    const std::string there = saved_step_ < 0 ? "nothing is saved yet"
                                              : "step " + std::to_string(saved_step_) + " is saved";
    facts.hint += (facts.hint.empty() ? "" : "; ") + there;
    if (must || recipe_.train.on_save_error == "halt") throw IoError(facts);
    return calls_.not_saved(under_way_, sentence(facts));
  }
  saved_step_ = under_way_;
  prune();
}

void RunSaver::prune() {
  retention_.best = calls_.best();
  prune_checkpoints(run_, saved_step_, retention_);
}

}  // namespace quern
