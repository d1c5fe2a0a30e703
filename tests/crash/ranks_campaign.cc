// SPDX-License-Identifier: MIT
// Runs of a few ranks, one of which is killed, stopped or slowed down tenfold while it computes,
// sums, exchanges tokens or a checkpoint is being written behind the training, at each stage of
// that. Killed or stopped: the job is over in time, names the rank, and leaves no process; resumed,
// it ends with the bytes of a run that was left alone. Slowed: the rank is named within twenty
// steps, and the job goes on unless the recipe says otherwise.
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <random>

#include "tests/crash/support.h"

namespace quern::crash {
namespace {

constexpr double kTimeout = 3;    // distributed.timeout_s
constexpr double kOver = 10;      // seconds from detection to the end of the job
constexpr double kDoneFor = 120;  // of any run
constexpr std::int64_t kSlowSteps = 20;
constexpr int kAttempts = 20;  // to hit a run where it is to be hit
constexpr double kRuns =
    0.002;  // seconds that a slow rank runs before it stands nine times as long

struct Options {
  int count = 50;
  int ranks = 3;
  int ep_size = 0;  // of every other trial; 0: all ranks
  double minutes = 1e9;
  unsigned seed = 1;
  std::int64_t steps = 40;
  std::int64_t every = 4;
  std::vector<std::string> faults = {"kill", "stop", "slow"};
  fs::path folder;
};

// A recipe, and the end of a run of it that nobody disturbed.
struct Twin {
  fs::path recipe, reference;
};

struct Trial {
  std::string fault;
  int ep_size = 1;
  char phase = 'c';  // c, r, e as mpi_phases.cc has them; of a save: p, b, i, n, see save_stage
  int victim = 0;
  std::string on_straggler = "warn";
  double begin = 0;  // of the fault, as a part of the steps
};

class Campaign {
 public:
  explicit Campaign(const Options& options)
      : options_(options), random_(options.seed), work_(options.folder) {
    fs::create_directories(work_ / "phases");
  }
  int go();

 private:
  std::int64_t steps_of(const Trial& t) const {
    return t.fault == "slow" ? options_.steps * 3 / 4 : options_.steps;
  }
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
  char save_stage() const;
  double random(double below) { return std::uniform_real_distribution<double>(0, below)(random_); }
  std::vector<std::string> command(const std::string& recipe) const {
    const std::string ranks = std::to_string(options_.ranks);
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
    case 'p':
      return "saving a part";
    case 'b':
      return "saving, before the index";
    case 'i':
      return "saving the index";
    case 'n':
      return "saving, the name";
    default:
      return "compute";
  }
}

const Twin& Campaign::twin(const Trial& trial) {
  const std::string name = (trial.fault == "slow" ? "slow_" : "ep_") +
                           std::to_string(trial.ep_size) + "_" + trial.on_straggler;
  const auto found = twins_.find(name);
  if (found != twins_.end()) return found->second;
  // To be slow takes steps that are long beside a slice of the scheduler: what a slow rank does in
  // one slice looks as fast as ever, and standing while it waits for others is no slowness.
  const bool slow = trial.fault == "slow";
  Toy toy{.steps = steps_of(trial),
          .checkpoint_every = options_.every,
          .batch_sequences = (slow ? 48 : 12) * options_.ranks,
          .hidden_size = slow ? 256 : 64,
          .n_routed_experts = options_.ranks,
          .more_train = "  background_save: true\n"};
  toy.more = "distributed {\n  timeout_s: " + std::to_string(int(kTimeout)) +
             "\n  ep_size: " + std::to_string(trial.ep_size) + "\n  on_straggler: \"" +
             trial.on_straggler + "\"\n}\n";
  Twin made{work_.recipe(name + ".textproto", toy), work_ / (name + "_reference")};
  // One rank with three lanes would do; that it does is for other tests.
  const std::string ranks = std::to_string(options_.ranks);
  Process process({"train", made.recipe, "--run-dir", made.reference, "--ranks", ranks});
  const Outcome outcome = process.wait(kDoneFor);
  if (outcome.code != 0) throw std::runtime_error("the run left alone: " + outcome.str());
  return twins_[name] = made;
}

Trial Campaign::next(const std::string& fault, int number) {
  const int spread = options_.ep_size > 0 ? options_.ep_size : options_.ranks;
  Trial t{.fault = fault, .ep_size = number % 2 == 0 ? spread : 1};
  const std::string phases = t.ep_size > 1 ? "ecrs" : "crs", stages = "pbin";
  const size_t nth = size_t(number / 2);
  t.phase = phases[nth % phases.size()];
  if (t.phase == 's') t.phase = stages[nth / phases.size() % stages.size()];
  t.victim = int(random(options_.ranks));
  if (fault == "slow" && number / 2 % 2 == 1) t.on_straggler = "halt";
  t.begin = random(fault == "slow" ? 0.2 : 0.6);
  return t;
}

void Campaign::fail(const Trial& t, const std::string& what) {
  tally_.fail(t.fault + " rank " + std::to_string(t.victim) + ", " + name_of(t.phase) +
              ", ep_size " + std::to_string(t.ep_size) + ", " + t.on_straggler + ": " + what);
}

// How far the save is that is under way: 'p', parts are written; 'b', all of them are; 'i', the
// index is written; 'n', the checkpoint gets its name. 0 where there is none.
char Campaign::save_stage() const {
  fs::path last;  // of the checkpoints, named or not: what is being deleted is older
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(run_ / "checkpoints", ignored)) {
    const std::string name = entry.path().filename();
    if (name == "latest.tmp") return 'n';
    if (name.starts_with("step-")) last = std::max(last, entry.path());
  }
  if (last.extension() != ".tmp") return 0;
  char stage = 'p';
  int parts = 0;
  for (const auto& entry : fs::directory_iterator(last, ignored)) {
    const std::string name = entry.path().filename();
    if (name.starts_with("MANIFEST")) return 'n';
    if (name.starts_with("model.h5")) stage = 'i';
    parts += name.ends_with(".h5") && name.find("-of-") != std::string::npos;
  }
  return stage == 'p' && parts == 2 * options_.ranks ? 'b' : stage;
}

char Campaign::phase_of(int rank) const {
  if (const char stage = save_stage()) return stage;
  const std::string page = bytes_of(work_ / ("phases/" + std::to_string(rank)));
  return page.empty() ? 'c' : page[0];
}

// Lets the run get on, and returns when its victim is where it is to be hit; false where the run
// has ended before.
bool Campaign::aim(const Trial& trial, const Process& job) {
  const double begin = seconds_now();
  const auto late = [&] { return seconds_now() - begin > kDoneFor; };
  const std::int64_t first = 1 + std::int64_t(trial.begin * double(steps_of(trial)));
  while (logged_step(run_) < first) {
    if (job.ended_within(0.02) || late()) return false;
  }
  pids_ = ranks_of(run_);
  if (int(pids_.size()) != options_.ranks) return false;
  while (phase_of(trial.victim) != trial.phase) {
    if (job.ended_within(1e-5) || late()) return false;
  }
  // Whoever leaves after the last step is not missed.
  return logged_step(run_) < steps_of(trial);
}

void Campaign::run(const Trial& trial) {
  const fs::path recipe = twin(trial).recipe;
  bool hit = false;
  for (int i = 0; !hit; ++i) {
    if (i == kAttempts) return fail(trial, "is never hit there");
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
  for (int rank = 0; rank < options_.ranks; ++rank) {
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
  // A busy machine wakes this process late: what counts is how long the rank has run in fact.
  double woken = seconds_now() - kRuns;
  for (int i = 1; !job.ended_within(0); ++i) {
    ::kill(victim, SIGSTOP);
    const double stands = std::min(9 * (seconds_now() - woken), kTimeout / 3);
    const bool enough = i % 10 == 0 && (named() > 0 || logged_step(run_) > begin + kSlowSteps);
    usleep(useconds_t(1e6 * stands));
    ::kill(victim, SIGCONT);
    woken = seconds_now();
    if (enough) break;
    usleep(useconds_t(1e6 * kRuns));
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
  for (int rank = 0; rank < options_.ranks; ++rank) {
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
    for (int i = 0; i < options_.count && seconds_now() - start < 60 * options_.minutes; ++i) {
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
  CLI::App app("Kills, stops and slows down one of a few ranks.");
  app.add_option("--count", options.count, "trials of each fault")->capture_default_str();
  app.add_option("--minutes", options.minutes, "after which no trial begins");
  app.add_option("--ranks", options.ranks, "of a run")->capture_default_str();
  app.add_option("--ep-size", options.ep_size, "of every other run; default: all ranks");
  app.add_option("--fault", options.faults, "kill, stop, slow; default: all");
  app.add_option("--seed", options.seed, "of the moments")->capture_default_str();
  app.add_option("--steps", options.steps, "of a run")->capture_default_str();
  app.add_option("--every", options.every, "steps between saves")->capture_default_str();
  app.add_option("--folder", options.folder, "where to work");
  return quern::crash::campaign_main(app, argc, argv,
                                     [&] { return quern::crash::Campaign(options).go(); });
}
