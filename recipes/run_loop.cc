// SPDX-License-Identifier: MIT
#include "quern/recipes/internal/run_loop.h"

#include <algorithm>
#include <cstdio>

#include "quern/data/atomic_file.h"
#include "quern/recipes/bad_steps.h"
#include "quern/recipes/describe.h"
#include "quern/recipes/environment.h"
#include "quern/recipes/finetune.h"
#include "quern/recipes/internal/step_metrics.h"
#include "quern/recipes/internal/units.h"
#include "quern/recipes/metrics.h"
#include "quern/recipes/probe.h"
#include "quern/recipes/run_report.h"
#include "quern/recipes/stop_signal.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

constexpr char kStoppedEarly[] = "stopped early";

bool every(i64 interval, i64 step) { return interval > 0 && step % interval == 0; }

// Whether a checkpoint is sound, but of a run whose recipe has been edited since, so that its state
// has other shapes or types.
bool is_of_another_recipe(const fs::path& checkpoint, const Recipe& recipe) {
  try {
    const CheckpointInfo info = read_checkpoint_info(ModelFile{checkpoint / "model.h5", {}});
    const Recipe before = parse_recipe(info.context.recipe, checkpoint.string());
    return !(before.model == recipe.model &&
             before.optim.moments_dtype == recipe.optim.moments_dtype);
  } catch (const Error&) {
    return false;
  }
}

}  // namespace

Run::Run(const Recipe& recipe, fs::path folder, RunInputs data, const StepHooks& hooks,
         const Communicator& ranks)
    : ranks_(ranks),
      leads_(ranks.rank() == 0),
      folder_(std::move(folder)),
      recipe_(recipe),
      data_(std::move(data)),
      trainer_(with_own_selection(recipe, folder_), data_.sampler, hooks,
               ParallelGroups(ranks, recipe.distributed.ep_size)),
      product_rate_(measure_product_rate(trainer_.model().dtype)),
      line_(recipe.train.steps, recipe.train.log_every, stdout),
      alarm_(recipe.model),
      watch_(ranks, {double(recipe.distributed.timeout_s), stop_requested,
                     "quern resume " + folder_.string()}),
      saver_(folder_, recipe_, data_.tokenizer_sha256, ranks,
             {[this](i64 step, const std::string& what) { not_saved(step, what); },
              [this] { return best_saved(); }}) {
  if (const auto checkpoint = checkpoint_to_go_on_from()) {
    restore(*checkpoint);
  } else {
    if (!recipe_.train.init_from.empty()) {
      const ModelFile weights = find_model_file(recipe_.train.init_from);
      if (leads_) warn_of_skipped(weights.skipped);
      trainer_.start_from(weights);
    }
    if (leads_) log_.emplace(folder_, 0);
  }
  log_environment();
}

// The first rank finds it for all.
std::optional<VerifiedCheckpoint> Run::checkpoint_to_go_on_from() {
  std::optional<VerifiedCheckpoint> found;
  if (leads_) found = newest_checkpoint(folder_);
  const std::string name = ranks_.broadcast(found ? found->folder.string() : "", 0);
  if (!leads_ && !name.empty()) found = VerifiedCheckpoint{name, {}};
  return found;
}

// A signal that one rank has got stops them all.
void Run::stop_here() const {
  if (ranks_.any(stop_requested())) throw StopRequested{};
}

void Run::log_environment() {
  EnvironmentMetrics m{trainer_.progress().step, describe_environment()};
  m.rows.emplace_back("product rate", internal::short_text(product_rate_) + " FLOP/s");
  m.rows.emplace_back("trained parameters", trained_text(trainer_.trained(), trainer_.recipe()));
  log(m);
}

void Run::restore(const VerifiedCheckpoint& checkpoint) {
  warn_of_skipped(checkpoint.skipped);
  try {
    trainer_.restore(checkpoint.folder);
  } catch (const CheckpointError& error) {
    if (!is_of_another_recipe(checkpoint.folder, recipe_)) throw;
    ErrorFacts facts = error.facts();
    facts.hint =
        "the run's recipe.textproto was edited: undo that, or start a new run with `quern train`";
    throw ConfigError(facts);
  }
  const i64 step = trainer_.progress().step;
  saver_.stands_at(step);
  if (leads_) log_.emplace(folder_, step);
  ranks_.barrier();
  remember(read_metrics(folder_ / "metrics.jsonl"));
  for (const SkippedCheckpoint& s : checkpoint.skipped) {
    log(EventMetrics{step, "checkpoint skipped", s.why});
  }
  log(EventMetrics{step, "resumed", ""});
}

// What the pieces of the run before this one have done.
void Run::remember(const RunHistory& history) {
  const i64 step = trainer_.progress().step;
  i64 looks = 0;  // at the model as it is
  if (!history.steps.empty()) elapsed_before_ = history.steps.back().elapsed_s;
  for (const EvalMetrics& e : history.evals) {
    if (!data_.validation.empty()) evaluated_[e.step] = figure_of_merit(e, *data_.validation[0]);
    looks += e.step == step;
  }
  stopped_early_ = std::ranges::any_of(
      history.events, [](const EventMetrics& e) { return e.name == kStoppedEarly; });
  // One look was at a part of the text, on the way: that at all of it is still to come.
  if (stopped_early_ && recipe_.train.eval_max_tokens > 0 && looks < 2) evaluated_.erase(step);
  for (const SampleMetrics& s : history.samples) sampled_.insert({s.step, s.prompt});
}

// A rank that is done is watched until all are.
ExitCode Run::go() {
  const ExitCode code = take_steps_and_finish();
  ranks_.barrier();
  return code;
}

ExitCode Run::take_steps_and_finish() {
  start_ = seconds_now();
  if (recipe_.model.n_routed_experts > 0) {
    line_.note("auxiliary losses: " + auxiliary_losses(recipe_.model));
  }
  if (recipe_.finetune.method != "full") {
    line_.note("trained: " + trained_text(trainer_.trained(), trainer_.recipe()));
  }
  if (may_roll_back(recipe_.guard) && trainer_.progress().step == 0) save(false);
  try {
    // What the run is to improve on, in full as at its end.
    if (!recipe_.train.init_from.empty() && trainer_.progress().step == 0) look_before();
    take_steps();
    return finish();
  } catch (const StopRequested&) {
    return interrupted();
  }
}

void Run::take_steps() {
  if (stopped_early_) return;
  const i64 first = trainer_.progress().step, steps = recipe_.train.steps;
  watch_.at_step(first);
  prefetch();
  if (first > 0 && first < steps) {  // what a signal broke off
    after_step(first);
    if (const auto best = best_if_patience_ends(first)) return go_back_to(*best);
  }
  while (trainer_.progress().step < steps) {
    stop_here();
    const double begin = seconds_now();
    const Batch batch = batches_->next();
    const double data_seconds = seconds_now() - begin;
    const StepReport step = trainer_.step(batch);
    if (step.bad) {
      refused(step, batch);
      prefetch();
      continue;
    }
    log_step(step, seconds_now() - begin, data_seconds);
    look_for_stragglers(step);
    saver_.look();
    const i64 done = trainer_.progress().step;
    if (done < steps) after_step(done);
    if (const auto best = best_if_patience_ends(done)) return go_back_to(*best);
  }
}

// Evaluations in turn, up to `done`, are what is waited for; the best of them is always saved.
std::optional<i64> Run::best_if_patience_ends(i64 done) {
  const TrainRecipe& t = recipe_.train;
  if (t.patience == 0 || done == t.steps || !every(t.eval_every, done)) return std::nullopt;
  i64 best = t.eval_every;
  for (i64 step = best; step <= done; step += t.eval_every) {
    if (evaluated_.contains(step) && evaluated_.at(step) < evaluated_.at(best)) best = step;
  }
  if (best == done) save(false);
  return done - best >= t.patience * t.eval_every ? std::optional(best) : std::nullopt;
}

// The weights become those of an earlier step, and the run looks as if it had ended there.
void Run::go_back_to(i64 step) {
  const std::string why = "after " + std::to_string(trainer_.progress().step) + " steps, step " +
                          std::to_string(step) + " is still the best";
  saver_.wait();
  ranks_.barrier();
  trainer_.restore(checkpoint_path(folder_, step));
  ranks_.barrier();
  for (const fs::path& later : list_checkpoints(folder_)) {
    if (leads_ && step_of(later) > step) fs::remove_all(later);
  }
  saver_.stands_at(step);
  std::erase_if(evaluated_, [&](const auto& e) {
    return e.first > step || (e.first == step && recipe_.train.eval_max_tokens > 0);
  });
  std::erase_if(sampled_, [&](const auto& s) { return s.first > step; });
  if (log_) log_->cut_back(step);
  log(EventMetrics{step, kStoppedEarly, why});
  line_.note(std::string(kStoppedEarly) + ": " + why);
}

void Run::after_step(i64 done) {
  const TrainRecipe& t = recipe_.train;
  if (every(t.eval_every, done)) do_evaluate(t.eval_max_tokens);
  if (every(t.sample_every, done)) write_samples();
  if (every(t.checkpoint_every, done)) save(false);
  if (every(t.eval_every, done) || every(t.checkpoint_every, done)) report(false);
}

// Batches from where the trainer stands.
void Run::prefetch() {
  batches_.reset();
  batches_.emplace([this, passed_over = trainer_.passed_over()](
                       i64 step) { return trainer_.batch_of(step, passed_over); },
                   trainer_.progress().step, 2);
}

void Run::refused(const StepReport& report, const Batch& batch) {
  const BadStep& bad = *report.bad;
  const std::string why = reason_of(bad);
  fs::path kept;
  try {
    if (leads_) {
      kept = keep_bad_batch(folder_, *data_.sampler, data_.tokenizer ? &*data_.tokenizer : nullptr,
                            batch, report, recipe_.guard.keep_batches);
    }
  } catch (const IoError& error) {
    line_.note(std::string("the batch could not be kept: ") + error.what());
  }
  if (bad.action == BadStepAction::halt) halt(report, kept);
  if (bad.action == BadStepAction::rollback) return roll_back(bad);
  // Of the step that was tried: should the run go on from the one before, it will skip again.
  log(EventMetrics{bad.step, "skipped", samples_of(bad) + ": " + why});
  line_.refused("step " + std::to_string(bad.step) + " skipped " + samples_of(bad) + ": " + why);
}

void Run::roll_back(const BadStep& bad) {
  saver_.wait();
  ranks_.barrier();
  const fs::path checkpoint = rollback_target(folder_, recipe_.train.checkpoint_every);
  const Progress to = read_checkpoint_info(checkpoint).progress;
  trainer_.roll_back(checkpoint, bad);
  saver_.stands_at(to.step);
  alarm_ = CollapseAlarm(recipe_.model);
  std::erase_if(evaluated_, [&](const auto& e) { return e.first > to.step; });
  std::erase_if(sampled_, [&](const auto& s) { return s.first > to.step; });
  if (log_) log_->roll_back(to.step, rollback_text(bad, to));
  line_.refused("rolled back " + rollback_text(bad, to));
}

void Run::halt(const StepReport& report, const fs::path& kept) {
  const BadStep& bad = *report.bad;
  line_.finish();
  save(true);
  log(EventMetrics{bad.step, "halted", samples_of(bad) + ": " + reason_of(bad)});
  this->report(false);
  std::printf("step %lld, the last good one, is saved in %s%s%s\n",
              static_cast<long long>(trainer_.progress().step), folder_.c_str(),
              kept.empty() ? "" : "; the batch is in ", kept.c_str());
  throw halt_error(report, recipe_.guard, folder_);
}

void Run::log_step(const StepReport& report, double seconds, double data_seconds) {
  StepMetrics m = metrics_of(report, trainer_.progress());
  m.seconds = seconds;
  m.data_s = data_seconds;
  m.tokens_per_s = double(report.tokens) / seconds;
  m.share_of_peak =
      flops_per_token(recipe_.model, recipe_.data.sequence_length) * m.tokens_per_s / product_rate_;
  m.elapsed_s = elapsed_before_ + seconds_now() - start_;
  m.memory_bytes = resident_bytes();
  log(m);
  line_.step(m);
  for (const std::string& what : alarm_.look(m)) {
    log(EventMetrics{m.step, "router collapsed", what});
    line_.note("warning: step " + std::to_string(m.step) + ": router collapsed: " + what);
  }
}

void Run::look_for_stragglers(const StepReport& report) {
  const i64 step = trainer_.progress().step;
  watch_.at_step(step);
  for (const Straggler& s : stragglers_.look(report.rank_seconds)) {
    const std::string what = "rank " + std::to_string(s.rank) + " on " + watch_.host(s.rank) +
                             " takes " + internal::short_text(s.ratio) +
                             " times the median of the ranks";
    log(EventMetrics{step, "slow rank", what});
    line_.note("warning: step " + std::to_string(step) + ": " + what);
    if (recipe_.distributed.on_straggler == "halt") {
      why_stopped_ = "since " + what;
      throw StopRequested{};
    }
  }
}

void Run::save(bool must) {
  if (saver_.has(trainer_.progress().step)) return;
  timed("saving", [&] { saver_.save(trainer_, must); });
}

// The same disk may refuse the log too; stderr has it already.
void Run::not_saved(i64 step, const std::string& what) {
  line_.finish();
  if (!leads_) return;
  std::fprintf(stderr, "quern: warning: step %lld is not saved, training goes on: %s\n",
               static_cast<long long>(step), what.c_str());
  try {
    log(EventMetrics{step, "save failed", what});
  } catch (const IoError&) {
  }
}

// Of the steps that have a checkpoint, the one with the best validation, where it is to be kept.
std::optional<i64> Run::best_saved() const {
  std::optional<i64> best;
  if (!recipe_.train.keep_best && recipe_.train.patience == 0) return best;
  for (const fs::path& checkpoint : list_checkpoints(folder_)) {
    const auto here = evaluated_.find(step_of(checkpoint));
    if (here == evaluated_.end()) continue;
    if (!best || here->second < evaluated_.at(*best)) best = here->first;
  }
  return best;
}

void Run::report(bool finished) {
  if (leads_) timed("reporting", [&] { write_run_report(folder_, finished); });
}

ExitCode Run::interrupted() {
  line_.finish();
  save(true);
  log(EventMetrics{trainer_.progress().step, "interrupted", ""});
  report(false);
  std::printf("stopped %s; step %lld is saved. Go on with: quern resume %s\n", why_stopped_.c_str(),
              static_cast<long long>(trainer_.progress().step), folder_.c_str());
  return ExitCode::kInterrupted;
}

ExitCode Run::finish() {
  line_.finish();
  save(true);
  do_evaluate(0);
  write_samples();
  compare();
  report(true);
  if (!leads_) return ExitCode::kDone;
  write_file_atomically(folder_ / "finished", "");
  std::fputs(validation_text(read_metrics(folder_ / "metrics.jsonl")).c_str(), stdout);
  std::printf("done: %lld steps, %s tokens. Report: %s\n",
              static_cast<long long>(trainer_.progress().step),
              internal::short_text(double(trainer_.progress().tokens_seen)).c_str(),
              (folder_ / "report.html").c_str());
  return ExitCode::kDone;
}

}  // namespace quern
