// SPDX-License-Identifier: MIT
// Runs of three ranks, one of which is killed, stopped or slowed down tenfold while it computes,
// sums, exchanges tokens or a checkpoint is being written. Killed or stopped: the job is over in
// time, names the rank, and leaves no process; resumed, it ends with the bytes of a run that was
// left alone. Slowed: the rank is named within twenty steps, and the job goes on unless the recipe
// says otherwise.
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <random>

#include "tests/crash/support.h"

namespace quern::crash {
namespace {

constexpr int kRanks = 3;
constexpr double kTimeout = 3;    // distributed.timeout_s
constexpr double kOver = 10;      // seconds from detection to the end of the job
constexpr double kDoneFor = 120;  // of any run
constexpr std::int64_t kSlowSteps = 20;
constexpr useconds_t kRuns = 2000, kStands = 9 * kRuns;  // of a slow rank, in microseconds

struct Options {
  int count = 50;
  unsigned seed = 1;
  std::int64_t steps = 40;
  std::int64_t every = 4;
  std::vector<std::string> faults = {"kill", "stop", "slow"};
  fs::path folder;
};

// A recipe, and the end of a run of it that nobody disturbed.
struct Twin {
  fs::path recipe, reference;
  double seconds = 0;  // it took
};

struct Trial {
  std::string fault;
  int ep_size = 1;
  char phase = 'c';  // c, r, e as mpi_phases.cc has them; s: saving
  int victim = 0;
  std::string on_straggler = "warn";
  double begin = 0;  // of the fault, as a part of the run
};

class Campaign {
 public:
  explicit Campaign(const Options& options)
      : options_(options), random_(options.seed), work_(options.folder) {
    fs::create_directories(work_ / "phases");
  }
  int go();

 private:
  const Twin& twin(const Trial& trial);
  Trial next(const std::string& fault, int number);
  void run(const Trial& trial);
  bool aim(const Trial& trial, const Process& job);
  void end_with(const Trial& trial, Process& job);
  void slow_down(const Trial& trial, Process& job);
  void look_at_end(const Trial& trial, const Outcome& outcome, double seconds);
  void go_on(const Trial& trial);
  void fail(const Trial& trial, const std::string& what);
  char phase_of(int rank) const;
  double random(double below) { return std::uniform_real_distribution<double>(0, below)(random_); }
  std::vector<std::string> command(const std::string& recipe) const {
    const std::string ranks = std::to_string(kRanks);
    if (fs::exists(run_ / "recipe.textproto")) return {"resume", run_, "--ranks", ranks};
    return {"train", recipe, "--run-dir", run_, "--ranks", ranks};
  }
  Environment watched() const {
    return {{"LD_PRELOAD", MPI_PHASES},
            {"ASAN_OPTIONS", "verify_asan_link_order=0"},
            {"QUERN_PHASES", work_ / "phases"}};
  }

  Options options_;
  std::mt19937_64 random_;
  Workspace work_;
  Tally tally_;
  std::map<std::string, Twin> twins_;
  fs::path run_;
  std::map<int, pid_t> pids_;
  std::map<std::string, std::vector<double>> endings_;  // seconds, by fault
  std::vector<double> alarms_;                          // steps
};

const char* name_of(char phase) {
  switch (phase) {
    case 'r':
      return "reduction";
    case 'e':
      return "exchange";
    case 's':
      return "saving";
    default:
      return "compute";
  }
}

const Twin& Campaign::twin(const Trial& trial) {
  const std::string name = (trial.fault == "slow" ? "slow_" : "ep_") +
                           std::to_string(trial.ep_size) + "_" + trial.on_straggler;
  const auto found = twins_.find(name);
  if (found != twins_.end()) return found->second;
  // To be slow takes steps that are long beside a slice of the scheduler.
  const bool slow = trial.fault == "slow";
  Toy toy{.steps = slow ? options_.steps * 3 / 4 : options_.steps,
          .checkpoint_every = options_.every,
          .batch_sequences = 36,
          .hidden_size = slow ? 256 : 64,
          .n_routed_experts = 3};
  toy.more = "distributed {\n  timeout_s: " + std::to_string(int(kTimeout)) +
             "\n  ep_size: " + std::to_string(trial.ep_size) + "\n  on_straggler: \"" +
             trial.on_straggler + "\"\n}\n";
  Twin made{work_.recipe(name + ".textproto", toy), work_ / (name + "_reference")};
  // One rank with three lanes would do; that it does is for other tests.
  Process process(
      {"train", made.recipe, "--run-dir", made.reference, "--ranks", std::to_string(kRanks)});
  const Outcome outcome = process.wait(kDoneFor);
  if (outcome.code != 0) throw std::runtime_error("the run left alone: " + outcome.str());
  made.seconds = outcome.seconds;
  return twins_[name] = made;
}

Trial Campaign::next(const std::string& fault, int number) {
  Trial t{.fault = fault, .ep_size = number % 2 == 0 ? kRanks : 1};
  const std::string phases = t.ep_size > 1 ? "ecrs" : "crs";
  t.phase = phases[size_t(number / 2) % phases.size()];
  t.victim = int(random(kRanks));
  if (fault == "slow" && number / 2 % 2 == 1) t.on_straggler = "halt";
  t.begin = random(fault == "slow" ? 0.2 : 0.6);
  return t;
}

void Campaign::fail(const Trial& t, const std::string& what) {
  tally_.fail(t.fault + " rank " + std::to_string(t.victim) + ", " + name_of(t.phase) +
              ", ep_size " + std::to_string(t.ep_size) + ", " + t.on_straggler + ": " + what);
}

char Campaign::phase_of(int rank) const {
  if (inside_save(run_)) return 's';
  const std::string page = bytes_of(work_ / ("phases/" + std::to_string(rank)));
  return page.empty() ? 'c' : page[0];
}

// Lets the run get on, and returns when its victim is where it is to be hit; false where the run
// has ended before.
bool Campaign::aim(const Trial& trial, const Process& job) {
  const double begin = seconds_now();
  while (logged_step(run_) == 0) {
    if (job.ended_within(0.02) || seconds_now() - begin > kDoneFor) return false;
  }
  pids_ = ranks_of(run_);
  if (pids_.size() != kRanks) return false;
  if (job.ended_within(trial.begin * twin(trial).seconds)) return false;
  while (phase_of(trial.victim) != trial.phase) {
    if (job.ended_within(1e-4)) return false;
  }
  return true;
}

void Campaign::run(const Trial& trial) {
  const fs::path recipe = twin(trial).recipe;
  for (bool hit = false; !hit;) {
    fs::remove_all(run_);
    Process job(command(recipe), watched());
    hit = aim(trial, job);
    if (!hit) {
      const Outcome early = job.wait(kDoneFor);
      if (early.code != 0) return fail(trial, "ended by itself: " + early.str());
      tally_.add("ended before they were hit");
      continue;
    }
    trial.fault == "slow" ? slow_down(trial, job) : end_with(trial, job);
  }
  tally_.add(trial.fault);
}

void Campaign::end_with(const Trial& trial, Process& job) {
  const pid_t victim = pids_.at(trial.victim);
  const double begin = seconds_now();
  ::kill(victim, trial.fault == "kill" ? SIGKILL : SIGSTOP);
  tally_.add(trial.fault + " in " + name_of(phase_of(trial.victim)));
  const double limit = (trial.fault == "stop" ? kTimeout : 0) + kOver;
  const Outcome outcome = job.wait(limit + 10);
  look_at_end(trial, outcome, seconds_now() - begin);
  go_on(trial);
}

void Campaign::look_at_end(const Trial& trial, const Outcome& outcome, double seconds) {
  const double limit = (trial.fault == "stop" ? kTimeout : 0) + kOver;
  if (seconds > limit) fail(trial, "over after " + std::to_string(seconds) + " s");
  endings_[trial.fault].push_back(seconds);
  if (outcome.code == 0) fail(trial, "went on");
  for (int rank = 0; rank < kRanks; ++rank) {
    const bool named =
        outcome.output.find("quern: rank " + std::to_string(rank) + " on ") != std::string::npos;
    if (named == (rank == trial.victim)) continue;
    fail(trial, (named ? "also names rank " : "does not name rank ") + std::to_string(rank) + ": " +
                    outcome.str());
  }
  const double begin = seconds_now();
  while (!ranks_of(run_).empty() && seconds_now() - begin < 1) usleep(10'000);
  for (const auto& [rank, pid] : ranks_of(run_)) {
    fail(trial, "rank " + std::to_string(rank) + " is left behind");
    ::kill(pid, SIGKILL);
  }
}

// To the end, which has to be that of its twin.
void Campaign::go_on(const Trial& trial) {
  const Twin& wanted = twin(trial);
  Process job(command(wanted.recipe));
  const Outcome last = job.wait(kDoneFor);
  if (last.code != 0) return fail(trial, "does not go on: " + last.str());
  const std::string differs = difference(run_, wanted.reference);
  if (!differs.empty()) return fail(trial, differs);
  for (const fs::path& left : debris(run_)) fail(trial, "left behind: " + left.string());
  tally_.add("ended like the run left alone");
}

void Campaign::slow_down(const Trial& trial, Process& job) {
  const pid_t victim = pids_.at(trial.victim);
  const std::int64_t begin = logged_step(run_);
  tally_.add("slow from " + std::string(name_of(phase_of(trial.victim))));
  const std::string culprit = "rank " + std::to_string(trial.victim) + " on ";
  const auto named = [&] { return event_step(run_, "slow rank", culprit); };
  while (named() == 0 && logged_step(run_) <= begin + kSlowSteps && !job.ended_within(0)) {
    for (int i = 0; i < 10; ++i) {
      ::kill(victim, SIGSTOP);
      usleep(kStands);
      ::kill(victim, SIGCONT);
      usleep(kRuns);
    }
  }
  const Outcome outcome = job.wait(kDoneFor);
  const std::int64_t steps = named() - begin;
  if (named() == 0) fail(trial, "is not named: " + outcome.str());
  if (steps > kSlowSteps) fail(trial, "is named after " + std::to_string(steps) + " steps");
  alarms_.push_back(double(steps));
  if (outcome.code != (trial.on_straggler == "halt" ? 75 : 0)) fail(trial, outcome.str());
  if (bytes_of(run_ / "report.html").find("slow rank") == std::string::npos) {
    fail(trial, "the report does not tell");
  }
  for (int rank = 0; rank < kRanks; ++rank) {
    const std::string other = "rank " + std::to_string(rank) + " on ";
    if (rank != trial.victim && event_step(run_, "slow rank", other) > 0) {
      tally_.add("others named as slow");
    }
  }
  go_on(trial);
}

void print(const std::string& what, std::vector<double> values) {
  if (values.empty()) return;
  std::sort(values.begin(), values.end());
  std::printf("%s: median %.1f, at most %.1f\n", what.c_str(), values[values.size() / 2],
              values.back());
}

int Campaign::go() {
  const double start = seconds_now();
  for (const std::string& fault : options_.faults) {
    for (int i = 0; i < options_.count; ++i) {
      run_ = work_ / (fault + "_" + std::to_string(i));
      run(next(fault, i));
      fs::remove_all(run_);
    }
  }
  for (const auto& [fault, seconds] : endings_) print("seconds from " + fault + " to end", seconds);
  print("steps until a slow rank is named", alarms_);
  std::printf("%.0f s\n", seconds_now() - start);
  return tally_.finish("ranks_campaign, seed " + std::to_string(options_.seed));
}

}  // namespace
}  // namespace quern::crash

int main(int argc, char** argv) {
  quern::crash::Options options;
  CLI::App app("Kills, stops and slows down one of three ranks.");
  app.add_option("--count", options.count, "trials of each fault")->capture_default_str();
  app.add_option("--fault", options.faults, "kill, stop, slow; default: all");
  app.add_option("--seed", options.seed, "of the moments")->capture_default_str();
  app.add_option("--steps", options.steps, "of a run")->capture_default_str();
  app.add_option("--every", options.every, "steps between saves")->capture_default_str();
  app.add_option("--folder", options.folder, "where to work");
  return quern::crash::campaign_main(app, argc, argv,
                                     [&] { return quern::crash::Campaign(options).go(); });
}
