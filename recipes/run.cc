// SPDX-License-Identifier: MIT
#include "quern/recipes/run.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <future>
#include <map>
#include <set>

#include "quern/data/atomic_file.h"
#include "quern/data/file_errors.h"
#include "quern/data/prefetch.h"
#include "quern/distributed/rank_watch.h"
#include "quern/recipes/bad_steps.h"
#include "quern/recipes/before_after.h"
#include "quern/recipes/collapse_alarm.h"
#include "quern/recipes/describe.h"
#include "quern/recipes/environment.h"
#include "quern/recipes/evaluate.h"
#include "quern/recipes/finetune.h"
#include "quern/recipes/generate.h"
#include "quern/recipes/internal/fresh_folder.h"
#include "quern/recipes/internal/run_lock.h"
#include "quern/recipes/internal/step_metrics.h"
#include "quern/recipes/internal/units.h"
#include "quern/recipes/metrics.h"
#include "quern/recipes/probe.h"
#include "quern/recipes/progress_line.h"
#include "quern/recipes/rank_layout.h"
#include "quern/recipes/run_inputs.h"
#include "quern/recipes/run_log.h"
#include "quern/recipes/run_report.h"
#include "quern/recipes/stop_signal.h"
#include "quern/recipes/straggler_alarm.h"
#include "quern/recipes/trainer.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

constexpr char kBefore[] = "before.json";
constexpr i64 kMaxBefore = 64 << 20;

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

bool is_ready(const std::future<void>& done) {
  return done.valid() && done.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
}

bool every(i64 interval, i64 step) { return interval > 0 && step % interval == 0; }

// Whether a checkpoint is sound, but of a run whose recipe has been edited since.
bool is_of_another_model(const fs::path& checkpoint, const Recipe& recipe) {
  try {
    const CheckpointInfo info = read_checkpoint_info(ModelFile{checkpoint / "model.h5", {}});
    return !(parse_recipe(info.context.recipe, checkpoint.string()).model == recipe.model);
  } catch (const Error&) {
    return false;
  }
}

// With several ranks all compute the same steps, evaluations and samples; the first one alone
// writes, and says what is going on.
class Run {
 public:
  Run(const Recipe& recipe, fs::path folder, RunInputs data, const StepHooks& hooks,
      const Communicator& ranks);
  ExitCode go();

 private:
  ExitCode take_steps_and_finish();
  void restore(const VerifiedCheckpoint& checkpoint);
  void remember(const RunHistory& history);
  void log_environment();
  void take_steps();
  void after_step(i64 done);
  void log_step(const StepReport& report, double seconds, double data_seconds);
  template <class F>
  void timed(const char* phase, F&& f);
  template <class Metrics>
  void log(const Metrics& metrics) {
    if (log_) log_->append(metrics);
  }
  std::optional<VerifiedCheckpoint> checkpoint_to_go_on_from();
  void stop_here() const;
  void prefetch();
  void look_for_stragglers(const StepReport& report);
  void refused(const StepReport& report, const Batch& batch);
  void roll_back(const BadStep& bad);
  std::optional<i64> best_if_patience_ends(i64 done);
  void go_back_to(i64 step);
  [[noreturn]] void halt(const StepReport& report, const fs::path& kept);
  void do_evaluate(i64 max_tokens);
  void look_before();
  std::string standing();
  void compare();
  void write_samples();
  void save(bool must);
  void finish_save(bool must);
  void not_saved(i64 step, const IoError& error, bool halts);
  void note_failure(i64 step, const std::string& what);
  void prune();
  void report(bool finished);
  ExitCode interrupted();
  ExitCode finish();

  Communicator ranks_;
  bool leads_;
  fs::path folder_;
  Recipe recipe_;
  RunInputs data_;
  Trainer trainer_;
  double product_rate_;
  double elapsed_before_ = 0;
  double start_ = 0;
  i64 saved_step_ = -1;  // is on the disk
  i64 taken_step_ = -1;  // is on the disk, or on its way there
  struct {
    i64 step = 0;
    std::future<void> done;  // waits in its destructor
  } saving_;
  Retention retention_;
  std::map<i64, double> evaluated_;                // bits per byte, by step
  std::set<std::pair<i64, std::string>> sampled_;  // steps and prompts of earlier pieces
  std::string why_stopped_ = "by a signal";
  std::optional<RunLog> log_;
  ProgressLine line_;
  CollapseAlarm alarm_;
  RankWatch watch_;
  StragglerAlarm stragglers_;
  std::optional<Prefetcher> batches_;
};

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
                     "quern resume " + folder_.string()}) {
  retention_.last = recipe_.train.keep_checkpoints;
  retention_.every = recipe_.train.keep_every;
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

// Runs it, and writes down how long it took.
template <class F>
void Run::timed(const char* phase, F&& f) {
  const double begin = seconds_now();
  f();
  log(PhaseMetrics{trainer_.progress().step, phase, seconds_now() - begin});
}

void Run::restore(const VerifiedCheckpoint& checkpoint) {
  warn_of_skipped(checkpoint.skipped);
  try {
    trainer_.restore(checkpoint.folder);
  } catch (const CheckpointError& error) {
    if (!is_of_another_model(checkpoint.folder, recipe_)) throw;
    ErrorFacts facts = error.facts();
    facts.hint =
        "the run's recipe.textproto was edited: undo that, or start a new run with `quern train`";
    throw ConfigError(facts);
  }
  const i64 step = trainer_.progress().step;
  saved_step_ = taken_step_ = step;
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
  if (!history.steps.empty()) elapsed_before_ = history.steps.back().elapsed_s;
  for (const EvalMetrics& e : history.evals) {
    if (!data_.validation.empty()) evaluated_[e.step] = figure_of_merit(e, *data_.validation[0]);
  }
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
  const i64 first = trainer_.progress().step, steps = recipe_.train.steps;
  watch_.at_step(first);
  prefetch();
  if (first > 0 && first < steps) after_step(first);  // what a signal broke off
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
    if (is_ready(saving_.done)) finish_save(false);
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
  const std::string why = "stopped early: after " + std::to_string(trainer_.progress().step) +
                          " steps, step " + std::to_string(step) + " is still the best";
  finish_save(false);
  ranks_.barrier();
  trainer_.restore(checkpoint_path(folder_, step));
  ranks_.barrier();
  for (const fs::path& later : list_checkpoints(folder_)) {
    if (leads_ && step_of(later) > step) fs::remove_all(later);
  }
  saved_step_ = taken_step_ = step;
  std::erase_if(evaluated_, [&](const auto& e) {
    return e.first > step || (e.first == step && recipe_.train.eval_max_tokens > 0);
  });
  std::erase_if(sampled_, [&](const auto& s) { return s.first > step; });
  if (log_) log_->roll_back(step, why);
  line_.note(why);
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
  finish_save(false);
  ranks_.barrier();
  const fs::path checkpoint = rollback_target(folder_, recipe_.train.checkpoint_every);
  const Progress to = read_checkpoint_info(checkpoint).progress;
  trainer_.roll_back(checkpoint, bad);
  saved_step_ = taken_step_ = to.step;
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

void Run::do_evaluate(i64 max_tokens) {
  const i64 step = trainer_.progress().step;
  if (data_.validation.empty() || evaluated_.contains(step)) return;
  EvaluateOptions options{recipe_.data.sequence_length, recipe_.train.micro_batch_sequences,
                          max_tokens};
  options.before_batch = [this] { stop_here(); };
  options.ranks = ranks_;
  EvalMetrics m;
  timed("evaluation", [&] { m = evaluate(trainer_.model(), data_.validation, options); });
  m.step = step;
  evaluated_[step] = figure_of_merit(m, *data_.validation[0]);
  log(m);
  line_.eval(m);
}

// What the run is to improve on, in full as at its end.
void Run::look_before() {
  do_evaluate(0);
  write_samples();
  const std::string before = standing();
  if (leads_) write_file_atomically(folder_ / kBefore, before);
}

std::string Run::standing() {
  std::string text;
  timed("evaluation", [&] {
    text = standing_of(trainer_.model(), recipe_, data_, folder_, [this] { stop_here(); });
  });
  return text;
}

void Run::compare() {
  if (!fs::exists(folder_ / kBefore)) return;
  const std::string after = standing();
  if (!leads_) return;
  RunCost cost{0, count_parameters(recipe_.model).total, elapsed_before_ + seconds_now() - start_,
               peak_resident_bytes()};
  for (const Parameter* p : trainer_.trained()) cost.trained_parameters += p->value.numel();
  write_before_after(folder_, read_file(folder_ / kBefore, kMaxBefore), after, recipe_, cost);
}

void Run::write_samples() {
  if (!data_.tokenizer) return;
  const i64 step = trainer_.progress().step;
  for (const std::string& prompt : recipe_.train.sample_prompts) {
    if (sampled_.contains({step, prompt})) continue;
    GenerateOptions options;
    options.tokens = recipe_.train.sample_tokens;
    options.seed = std::uint64_t(recipe_.train.seed);
    const bool chat = data_.sampler->sources()[0].file->has_mask();
    const PromptTokens tokens =
        chat ? question_tokens(*data_.tokenizer, prompt, recipe_.data.chat_template)
             : prompt_tokens(*data_.tokenizer, prompt);
    std::string text;
    timed("sampling", [&] {
      text = generate(trainer_.model(), *data_.tokenizer, {tokens}, options,
                      [this](size_t, const std::string&) { stop_here(); })[0]
                 .text;
    });
    log(SampleMetrics{step, prompt, text});
  }
}

// What the log says up to here is made durable first, so that a checkpoint never knows more.
// `must`: nothing comes afterwards that could save again.
void Run::save(bool must) {
  const i64 step = trainer_.progress().step;
  finish_save(false);  // where it fails, this one tries again
  if (ranks_.any(step != taken_step_)) {
    timed("saving", [&] {
      const bool behind = recipe_.train.background_save && !must;
      auto state = std::make_shared<const CheckpointSnapshot>(
          trainer_.model(), trainer_.optimizer(), trainer_.progress(),
          CheckpointContext{to_text(recipe_), data_.tokenizer_sha256}, trainer_.layout(), behind);
      taken_step_ = step;
      if (!leads_) return;
      const auto policy = behind ? std::launch::async : std::launch::deferred;
      saving_ = {step, std::async(policy, [state, run = folder_] {
                   sync_file(run / "metrics.jsonl");
                   state->write(run);
                 })};
      if (!behind) finish_save(must);
    });
  } else if (leads_) {
    prune();
  }
}

// Waits for what is being saved.
void Run::finish_save(bool must) {
  if (!saving_.done.valid()) return;
  try {
    saving_.done.get();
    saved_step_ = saving_.step;
    prune();
  } catch (const IoError& error) {
    taken_step_ = -1;
    not_saved(saving_.step, error, must || recipe_.train.on_save_error == "halt");
  }
}

void Run::not_saved(i64 step, const IoError& error, bool halts) {
  line_.finish();
  ErrorFacts facts = error.facts();
  const std::string there = saved_step_ < 0 ? "nothing is saved yet"
                                            : "step " + std::to_string(saved_step_) + " is saved";
  facts.hint += (facts.hint.empty() ? "" : "; ") + there;
  if (halts) throw IoError(facts);
  std::fprintf(stderr, "quern: warning: step %lld is not saved, training goes on: %s\n",
               static_cast<long long>(step), sentence(facts).c_str());
  note_failure(step, error.what());
}

// The same disk may refuse the log too; stderr has it already.
void Run::note_failure(i64 step, const std::string& what) {
  try {
    log(EventMetrics{step, "save failed", what});
  } catch (const IoError&) {
  }
}

void Run::prune() {
  retention_.best.reset();
  if (recipe_.train.keep_best || recipe_.train.patience > 0) {
    for (const fs::path& checkpoint : list_checkpoints(folder_)) {
      const auto here = evaluated_.find(step_of(checkpoint));
      if (here == evaluated_.end()) continue;
      const bool better = !retention_.best || here->second < evaluated_[*retention_.best];
      if (better) retention_.best = here->first;
    }
  }
  prune_checkpoints(folder_, saved_step_, retention_);
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

// Everything about the recipe that the start of a run decides. Throws StopRequested.
void settle(Recipe& recipe, const RunInputs& data, const fs::path& run, const Communicator& ranks) {
  settle_lanes(recipe, ranks.size());
  recipe.train.dtype = resolved_dtype(recipe.train);
  settle_chat_template(recipe, *data.sampler);
  settle_finetuning(recipe, *data.sampler->sources()[0].file, run);
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
