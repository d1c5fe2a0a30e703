// SPDX-License-Identifier: MIT
// A run that has been started or gone on with: its steps, and what happens between them.
#pragma once

#include <chrono>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>

#include "quern/data/prefetch.h"
#include "quern/distributed/rank_watch.h"
#include "quern/recipes/collapse_alarm.h"
#include "quern/recipes/internal/run_saver.h"
#include "quern/recipes/progress_line.h"
#include "quern/recipes/run_inputs.h"
#include "quern/recipes/run_log.h"
#include "quern/recipes/straggler_alarm.h"
#include "quern/recipes/trainer.h"

namespace quern {

// With several ranks all compute the same steps, evaluations and samples; the first one alone
// writes, and says what is going on.
class Run {
 public:
  Run(const Recipe& recipe, std::filesystem::path folder, RunInputs data, const StepHooks& hooks,
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
  // Runs it, and writes down how long it took.
  template <class F>
  void timed(const char* phase, F&& f) {
    const double begin = seconds_now();
    f();
    log(PhaseMetrics{trainer_.progress().step, phase, seconds_now() - begin});
  }
  static double seconds_now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
  }
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
  [[noreturn]] void halt(const StepReport& report, const std::filesystem::path& kept);
  void do_evaluate(i64 max_tokens);
  void look_before();
  std::string standing();
  void compare();
  void write_samples();
  void save(bool must);
  void not_saved(i64 step, const std::string& what);
  std::optional<i64> best_saved() const;
  void report(bool finished);
  ExitCode interrupted();
  ExitCode finish();

  Communicator ranks_;
  bool leads_;
  std::filesystem::path folder_;
  Recipe recipe_;
  RunInputs data_;
  Trainer trainer_;
  double product_rate_;
  double elapsed_before_ = 0;
  double start_ = 0;
  std::map<i64, double> evaluated_;                // bits per byte, by step
  std::set<std::pair<i64, std::string>> sampled_;  // steps and prompts of earlier pieces
  std::string why_stopped_ = "by a signal";
  bool stopped_early_ = false;  // its patience has ended, before this piece of it
  std::optional<RunLog> log_;
  ProgressLine line_;
  CollapseAlarm alarm_;
  RankWatch watch_;
  StragglerAlarm stragglers_;
  RunSaver saver_;
  std::optional<Prefetcher> batches_;
};

}  // namespace quern
