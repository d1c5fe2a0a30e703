// SPDX-License-Identifier: MIT
#include "quern/recipes/run.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <span>

#include "quern/data/atomic_file.h"
#include "quern/data/prefetch.h"
#include "quern/data/tokenizer.h"
#include "quern/recipes/bad_steps.h"
#include "quern/recipes/describe.h"
#include "quern/recipes/environment.h"
#include "quern/recipes/evaluate.h"
#include "quern/recipes/generate.h"
#include "quern/recipes/internal/units.h"
#include "quern/recipes/metrics.h"
#include "quern/recipes/probe.h"
#include "quern/recipes/progress_line.h"
#include "quern/recipes/run_inputs.h"
#include "quern/recipes/run_log.h"
#include "quern/recipes/run_report.h"
#include "quern/recipes/trainer.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

// Set by the first SIGINT or SIGTERM; the second one ends the process at once.
volatile std::sig_atomic_t stop_signal = 0;

void on_signal(int signal) { stop_signal = signal; }

void catch_signals() {
  stop_signal = 0;
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESETHAND | SA_RESTART;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

bool every(i64 interval, i64 step) { return interval > 0 && step % interval == 0; }

class Run {
 public:
  Run(const Recipe& recipe, fs::path folder, RunInputs data, const StepHooks& hooks);
  ExitCode go();

 private:
  void restore(const std::vector<fs::path>& checkpoints);
  void log_environment();
  void log_step(const StepReport& report, double seconds, double data_seconds);
  template <class F>
  void timed(const char* phase, F&& f);
  void prefetch();
  void refused(const StepReport& report, const Batch& batch);
  void roll_back(const BadStep& bad);
  [[noreturn]] void halt(const StepReport& report, const fs::path& kept);
  void do_evaluate(i64 max_tokens);
  void write_samples(i64 done = 0);
  void save();
  void report(bool finished);
  ExitCode interrupted();
  ExitCode finish();

  fs::path folder_;
  Recipe recipe_;
  RunInputs data_;
  Trainer trainer_;
  double product_rate_;
  double elapsed_before_ = 0;
  double start_ = 0;
  i64 saved_step_ = -1;
  std::optional<RunLog> log_;
  ProgressLine line_;
  std::optional<Prefetcher> batches_;
};

Run::Run(const Recipe& recipe, fs::path folder, RunInputs data, const StepHooks& hooks)
    : folder_(std::move(folder)),
      recipe_(recipe),
      data_(std::move(data)),
      trainer_(recipe, data_.sampler, hooks),
      product_rate_(measure_product_rate()),
      line_(recipe.train.steps, recipe.train.log_every, stdout) {
  const std::vector<fs::path> checkpoints = list_checkpoints(folder_);
  if (checkpoints.empty()) {
    if (!recipe_.train.init_from.empty()) trainer_.start_from(recipe_.train.init_from);
    log_.emplace(folder_, 0);
    log_environment();
    return;
  }
  restore(checkpoints);
  log_.emplace(folder_, trainer_.progress().step);
  const RunHistory history = read_metrics(folder_ / "metrics.jsonl");
  if (!history.steps.empty()) elapsed_before_ = history.steps.back().elapsed_s;
  log_->append(EventMetrics{trainer_.progress().step, "resumed", ""});
  log_environment();
}

void Run::log_environment() {
  EnvironmentMetrics m{trainer_.progress().step, describe_environment()};
  m.rows.emplace_back("product rate", internal::short_text(product_rate_) + " FLOP/s");
  log_->append(m);
}

// Runs it, and writes down how long it took.
template <class F>
void Run::timed(const char* phase, F&& f) {
  const double begin = seconds_now();
  f();
  log_->append(PhaseMetrics{trainer_.progress().step, phase, seconds_now() - begin});
}

void Run::restore(const std::vector<fs::path>& checkpoints) {
  try {
    trainer_.restore(checkpoints.back());
  } catch (const CheckpointError& error) {
    ErrorFacts facts = error.facts();
    if (checkpoints.size() > 1) {
      facts.hint = "to go on from " + checkpoints[checkpoints.size() - 2].filename().string() +
                   ", delete " + checkpoints.back().string();
    }
    throw CheckpointError(facts);
  }
  saved_step_ = trainer_.progress().step;
}

ExitCode Run::go() {
  const TrainRecipe& t = recipe_.train;
  catch_signals();
  start_ = seconds_now();
  if (may_roll_back(recipe_.guard) && trainer_.progress().step == 0) save();
  prefetch();
  while (trainer_.progress().step < t.steps) {
    if (stop_signal != 0) return interrupted();
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
    const i64 done = trainer_.progress().step;
    if (done == t.steps) break;
    if (every(t.eval_every, done)) do_evaluate(t.eval_max_tokens);
    if (every(t.sample_every, done)) write_samples();
    if (every(t.checkpoint_every, done)) save();
    if (every(t.eval_every, done) || every(t.checkpoint_every, done)) report(false);
  }
  return finish();
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
    kept = keep_bad_batch(folder_, *data_.sampler, data_.tokenizer ? &*data_.tokenizer : nullptr,
                          batch, report, recipe_.guard.keep_batches);
  } catch (const IoError& error) {
    line_.note(std::string("the batch could not be kept: ") + error.what());
  }
  if (bad.action == BadStepAction::halt) halt(report, kept);
  if (bad.action == BadStepAction::rollback) return roll_back(bad);
  // Of the step that was tried: should the run go on from the one before, it will skip again.
  log_->append(EventMetrics{bad.step, "skipped", samples_of(bad) + ": " + why});
  line_.refused("step " + std::to_string(bad.step) + " skipped " + samples_of(bad) + ": " + why);
}

void Run::roll_back(const BadStep& bad) {
  const fs::path checkpoint = rollback_target(folder_, recipe_.train.checkpoint_every);
  const Progress to = read_checkpoint_info(checkpoint).progress;
  trainer_.roll_back(checkpoint, bad);
  saved_step_ = to.step;
  log_->roll_back(to.step, rollback_text(bad, to));
  line_.refused("rolled back " + rollback_text(bad, to));
}

void Run::halt(const StepReport& report, const fs::path& kept) {
  const BadStep& bad = *report.bad;
  line_.finish();
  save();
  log_->append(EventMetrics{bad.step, "halted", samples_of(bad) + ": " + reason_of(bad)});
  this->report(false);
  std::printf("step %lld, the last good one, is saved in %s%s%s\n",
              static_cast<long long>(trainer_.progress().step), folder_.c_str(),
              kept.empty() ? "" : "; the batch is in ", kept.c_str());
  throw halt_error(report, recipe_.guard, folder_);
}

void Run::log_step(const StepReport& report, double seconds, double data_seconds) {
  StepMetrics m;
  m.step = trainer_.progress().step;
  m.tokens_seen = trainer_.progress().tokens_seen;
  m.loss = report.loss;
  m.aux_loss = report.aux_loss;
  m.lr = report.lr;
  m.grad_norm = report.grad_norm;
  m.seconds = seconds;
  m.data_s = data_seconds;
  m.forward_backward_s = report.forward_backward_s;
  m.optimizer_s = report.optimizer_s;
  m.tokens_per_s = double(report.tokens) / seconds;
  m.share_of_peak =
      flops_per_token(recipe_.model, recipe_.data.sequence_length) * m.tokens_per_s / product_rate_;
  m.elapsed_s = elapsed_before_ + seconds_now() - start_;
  for (const std::vector<i64>& layer : report.expert_load) {
    double sum = 0;
    for (const i64 n : layer) sum += double(n);
    std::vector<double>& relative = m.expert_load.emplace_back();
    for (const i64 n : layer) {
      relative.push_back(double(n) * double(layer.size()) / sum);
      m.dead_experts += n == 0;
      m.load_max_over_mean = std::max(m.load_max_over_mean, relative.back());
    }
  }
  m.memory_bytes = resident_bytes();
  log_->append(m);
  line_.step(m);
}

void Run::do_evaluate(i64 max_tokens) {
  if (data_.validation.empty()) return;
  EvalMetrics m;
  timed("evaluation", [&] {
    m = evaluate(trainer_.model(), data_.validation,
                 {recipe_.data.sequence_length, recipe_.train.micro_batch_sequences, max_tokens});
  });
  m.step = trainer_.progress().step;
  log_->append(m);
  line_.eval(m);
}

// Of the prompts after the first `done`.
void Run::write_samples(i64 done) {
  if (!data_.tokenizer) return;
  const std::span<const std::string> prompts = recipe_.train.sample_prompts;
  for (const std::string& prompt : prompts.subspan(std::min(size_t(done), prompts.size()))) {
    GenerateOptions options;
    options.tokens = recipe_.train.sample_tokens;
    options.seed = std::uint64_t(recipe_.train.seed);
    std::string text;
    timed("sampling",
          [&] { text = generate(trainer_.model(), *data_.tokenizer, prompt, options); });
    log_->append(SampleMetrics{trainer_.progress().step, prompt, text});
  }
}

void Run::save() {
  const i64 step = trainer_.progress().step;
  if (step == saved_step_) return;
  timed("saving", [&] {
    save_checkpoint(folder_, trainer_.model(), trainer_.optimizer(), trainer_.progress(),
                    {to_text(recipe_), data_.tokenizer_sha256});
    prune_checkpoints(folder_, recipe_.train.keep_checkpoints);
  });
  saved_step_ = step;
}

void Run::report(bool finished) {
  timed("reporting", [&] { write_run_report(folder_, finished); });
}

ExitCode Run::interrupted() {
  line_.finish();
  save();
  log_->append(EventMetrics{trainer_.progress().step, "interrupted", ""});
  report(false);
  std::printf("stopped by a signal; step %lld is saved. Go on with: quern resume %s\n",
              static_cast<long long>(trainer_.progress().step), folder_.c_str());
  return ExitCode::kInterrupted;
}

ExitCode Run::finish() {
  line_.finish();
  save();
  // A run killed below has some of this in its log already.
  const RunHistory before = read_metrics(folder_ / "metrics.jsonl");
  const auto of_last_step = [this](const auto& m) { return m.step == recipe_.train.steps; };
  const bool measured = std::ranges::any_of(before.evals, of_last_step);
  if (!measured) do_evaluate(0);
  write_samples(std::ranges::count_if(before.samples, of_last_step));
  report(true);
  write_file_atomically(folder_ / "finished", "");
  const RunHistory history = read_metrics(folder_ / "metrics.jsonl");
  if (!history.evals.empty()) {
    const EvalMetrics& last = history.evals.back();
    std::printf("validation: %.4f bits per byte\n", last.bits_per_byte);
    for (const auto& d : last.domains) {
      std::printf("  %-24s %.4f\n", d.name.c_str(), d.bits_per_byte);
    }
  }
  std::printf("done: %lld steps, %s tokens. Report: %s\n",
              static_cast<long long>(trainer_.progress().step),
              internal::short_text(double(trainer_.progress().tokens_seen)).c_str(),
              (folder_ / "report.html").c_str());
  return ExitCode::kDone;
}

// The steps that fill target_minutes, from a short probe; schedules count steps, never time.
void choose_steps(Recipe& recipe, const RunInputs& data) {
  const StepProbe probe = probe_step(recipe, data.sampler);
  const double steps = recipe.train.target_minutes * 60 / probe.seconds_per_step;
  recipe.train.steps = std::max<i64>(10, i64(steps));
  recipe.optim.warmup_steps = std::min(recipe.optim.warmup_steps, recipe.train.steps / 5);
  std::printf("%.3f s per step: %lld steps in %s\n", probe.seconds_per_step,
              static_cast<long long>(recipe.train.steps),
              internal::duration_text(recipe.train.target_minutes * 60).c_str());
}

}  // namespace

ExitCode train_run(Recipe recipe, const fs::path& run, const StepHooks& hooks) {
  if (fs::exists(run / "recipe.textproto")) {
    throw ConfigError({.file = run.string(),
                       .what = "this folder already holds a run",
                       .hint = "go on with: quern resume " + run.string()});
  }
  use_threads(recipe.train.threads);
  make_paths_absolute(recipe);
  RunInputs data = open_inputs(recipe);
  std::error_code error;
  fs::create_directories(run / "checkpoints", error);
  if (error) throw IoError({.file = run.string(), .what = error.message()});
  if (recipe.train.steps == 0) choose_steps(recipe, data);
  validate(recipe);
  if (data.tokenizer) data.tokenizer->save(run / "tokenizer.json");
  Run started(recipe, run, std::move(data), hooks);
  write_corpus_hashes(run, recipe);
  // From here on the folder holds a run, whose files are known to fit together.
  write_file_atomically(run / "recipe.textproto", to_text(recipe));
  return started.go();
}

ExitCode resume_run(const fs::path& run, const StepHooks& hooks) {
  if (!fs::exists(run / "recipe.textproto")) {
    throw ConfigError({.file = run.string(), .what = "no run in this folder"});
  }
  if (fs::exists(run / "finished")) {
    std::printf("this run is finished. Report: %s\n", (run / "report.html").c_str());
    return ExitCode::kDone;
  }
  const Recipe recipe = load_recipe((run / "recipe.textproto").string());
  use_threads(recipe.train.threads);
  RunInputs inputs = open_inputs(recipe);
  check_corpus_hashes(run, recipe);
  return Run(recipe, run, std::move(inputs), hooks).go();
}

}  // namespace quern
