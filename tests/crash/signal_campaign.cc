// SPDX-License-Identifier: MIT
// SIGTERM, SIGINT and SIGUSR1 at random moments between the start of a run and its end: the program
// ends with 75 (0 if it was done already) within one step and one save, its last step is in a whole
// checkpoint, and the resumed run ends with the bytes of one that was left alone. One signal in
// five is followed by a second one, which may end the program at once.
//
// A signal that comes before the program has a handler, while it is being loaded, ends it as any
// program; such moments are counted apart.
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <random>

#include "tests/crash/support.h"

namespace quern::crash {
namespace {

struct Options {
  int count = 100;
  unsigned seed = 1;
  std::int64_t steps = 60;
  std::int64_t every = 7;
  double limit = 2;  // seconds for one step, one save and starting up, on a busy machine
  fs::path folder;
};

constexpr std::array<int, 3> kSignals = {SIGTERM, SIGINT, SIGUSR1};

class Campaign {
 public:
  explicit Campaign(const Options& options)
      : options_(options), random_(options.seed), work_(options.folder) {}
  int go();

 private:
  void measure();
  void life(const fs::path& run);
  bool interrupt_once(const fs::path& run);
  void look_at(const fs::path& run, const std::string& name) const;
  double random(double below) { return std::uniform_real_distribution<double>(0, below)(random_); }
  std::vector<std::string> command(const fs::path& run) const {
    if (fs::exists(run / "recipe.textproto")) return {"resume", run};
    return {"train", recipe_, "--run-dir", run};
  }

  Options options_;
  std::mt19937_64 random_;
  Workspace work_;
  mutable Tally tally_;
  fs::path recipe_, reference_;
  double run_seconds_ = 0;
  std::vector<double> latencies_;
};

void Campaign::measure() {
  recipe_ = work_.recipe("recipe.textproto", {.steps = options_.steps,
                                              .checkpoint_every = options_.every,
                                              .batch_sequences = 32,
                                              .hidden_size = 32});
  reference_ = work_ / "reference";
  const Outcome outcome = quern({"train", recipe_, "--run-dir", reference_});
  if (outcome.code != 0) throw std::runtime_error("the run left alone: " + outcome.str());
  run_seconds_ = outcome.seconds;
}

void Campaign::life(const fs::path& run) {
  while (tally_.count("signals") < options_.count) {
    if (!interrupt_once(run)) break;
  }
  const Outcome last = quern(command(run));
  if (last.code != 0) return tally_.fail(run.filename().string() + " did not end: " + last.str());
  const std::string differs = difference(run, reference_);
  if (!differs.empty()) tally_.fail(run.filename().string() + ": " + differs);
  for (const fs::path& left : debris(run)) tally_.fail("left behind: " + left.string());
  tally_.add("runs that ended like the one left alone", differs.empty());
}

// False when the run is done.
bool Campaign::interrupt_once(const fs::path& run) {
  const int signal = kSignals[random_() % kSignals.size()];
  const bool twice = random(1) < 0.2;
  Process process(command(run));
  if (process.ended_within(random(run_seconds_))) {
    const Outcome outcome = process.wait();
    if (outcome.code != 0) tally_.fail("ended by itself: " + outcome.str());
    return false;
  }
  const bool caught = process.catches(SIGTERM);
  const double sent = seconds_now();
  process.send(signal);
  if (twice) {
    usleep(useconds_t(random(5e3)));
    process.send(signal);
  }
  const Outcome outcome = process.wait(30);
  const double latency = seconds_now() - sent;
  const std::string name =
      std::string(strsignal(signal)) + (twice ? ", twice" : "") + ", " + outcome.str();
  if (!caught && outcome.code == -signal) {
    tally_.add("moments before the program had a handler");
    return true;
  }
  tally_.add("signals");
  tally_.add(std::string("of them ") + strsignal(signal));
  if (twice) tally_.add("of them followed by a second one");
  tally_.add("ended with " + std::to_string(outcome.code));
  latencies_.push_back(latency);
  if (latency > options_.limit) tally_.fail(name + ": took " + std::to_string(latency) + " s");
  const bool forced = twice && outcome.code == -signal;
  if (outcome.code != 75 && outcome.code != 0 && !forced) tally_.fail(name);
  if (!forced) look_at(run, name);
  return outcome.code != 0;
}

// Every step that the log tells of is in the newest checkpoint.
void Campaign::look_at(const fs::path& run, const std::string& name) const {
  const auto saved = checkpoints(run);
  const std::int64_t logged = logged_step(run);
  if (saved.empty() && logged == 0) return tally_.add("signals before the first step");
  const Verified verified = verify(run);
  if (verified.outcome.code != 0 || verified.step != saved.rbegin()->first) {
    return tally_.fail(name + ": the newest checkpoint is not whole: " + verified.outcome.str());
  }
  if (verified.step != logged) {
    tally_.fail(name + ": step " + std::to_string(verified.step) + " is saved, " +
                std::to_string(logged) + " is logged");
  }
}

int Campaign::go() {
  measure();
  const double start = seconds_now();
  for (int i = 1; tally_.count("signals") < options_.count; ++i) {
    const fs::path run = work_ / ("run_" + std::to_string(i));
    life(run);
    fs::remove_all(run);
  }
  std::sort(latencies_.begin(), latencies_.end());
  std::printf(
      "a run takes %.2f s (%.1f ms a step); from signal to end: median %.0f ms, at most "
      "%.0f ms, allowed %.0f ms\n%.0f s\n",
      run_seconds_, run_seconds_ * 1e3 / double(options_.steps),
      latencies_[latencies_.size() / 2] * 1e3, latencies_.back() * 1e3, options_.limit * 1e3,
      seconds_now() - start);
  return tally_.finish("signal_campaign, seed " + std::to_string(options_.seed));
}

}  // namespace
}  // namespace quern::crash

int main(int argc, char** argv) {
  quern::crash::Options options;
  CLI::App app("Sends signals to runs at random moments and resumes them.");
  app.add_option("--count", options.count, "signals")->capture_default_str();
  app.add_option("--seed", options.seed, "of the moments")->capture_default_str();
  app.add_option("--steps", options.steps, "of a run")->capture_default_str();
  app.add_option("--every", options.every, "steps between saves")->capture_default_str();
  app.add_option("--limit", options.limit, "seconds from signal to end")->capture_default_str();
  app.add_option("--folder", options.folder, "where to work");
  return quern::crash::campaign_main(app, argc, argv,
                                     [&] { return quern::crash::Campaign(options).go(); });
}
