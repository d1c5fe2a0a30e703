// SPDX-License-Identifier: MIT
// Runs killed with SIGKILL at random moments, three in ten of them or more while a checkpoint is
// being written, and resumed: the newest checkpoint is always whole, no more than the steps since
// the last save are lost, and each run ends with the bytes of one that was left alone.
#include <poll.h>
#include <signal.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <random>

#include "tests/crash/support.h"

namespace quern::crash {
namespace {

struct Options {
  int count = 200;
  unsigned seed = 1;
  std::int64_t steps = 60;
  std::int64_t every = 3;
  std::int64_t hidden_size = 32;
  std::string finetune;
  fs::path folder;
};

// Waits until something is made in a folder.
class Watch {
 public:
  explicit Watch(const fs::path& folder) : fd_(inotify_init1(IN_CLOEXEC | IN_NONBLOCK)) {
    fs::create_directories(folder);
    inotify_add_watch(fd_, folder.c_str(), IN_CREATE);
  }
  ~Watch() { close(fd_); }
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  bool wait(double seconds) {
    pollfd wanted{fd_, POLLIN, 0};
    if (poll(&wanted, 1, int(seconds * 1000)) != 1) return false;
    char events[4096];
    return read(fd_, events, sizeof events) > 0;
  }

 private:
  int fd_;
};

class Campaign {
 public:
  explicit Campaign(const Options& options)
      : options_(options), random_(options.seed), work_(options.folder) {}
  int go();

 private:
  fs::path recipe();
  void measure();
  void life(const std::string& name);
  bool kill_once();
  void look_at(std::int64_t published_before);
  double random(double below) { return std::uniform_real_distribution<double>(0, below)(random_); }
  std::vector<std::string> command() const {
    if (fs::exists(run_ / "recipe.textproto")) return {"resume", run_};
    return {"train", recipe_, "--run-dir", run_};
  }

  Options options_;
  std::mt19937_64 random_;
  Workspace work_;
  Tally tally_;
  fs::path recipe_;
  // All runs are begun in one folder, which their recipes may tell.
  fs::path run_ = work_ / "run", reference_ = work_ / "reference";
  double run_seconds_ = 0, save_seconds_ = 0;
};

// To be killed: from random weights, or from another run's, which then is the teacher as well.
fs::path Campaign::recipe() {
  Toy toy{.steps = options_.steps,
          .checkpoint_every = options_.every,
          .hidden_size = options_.hidden_size,
          .n_routed_experts = 4};
  if (options_.finetune.empty()) return work_.recipe("recipe.textproto", toy);
  const fs::path base = work_ / "base";
  const Outcome outcome = quern({"train", work_.recipe("base.textproto", toy), "--run-dir", base});
  if (outcome.code != 0) throw std::runtime_error("the base: " + outcome.str());
  toy.more_train = "  init_from: '" + base.string() + "'\n";
  toy.more = "finetune { method: '" + options_.finetune + "' distill_from: '" + base.string() +
             "' threshold: 0.6 }\n";
  return work_.recipe("recipe.textproto", toy);
}

// The run that is left alone, and how long it and its saves take.
void Campaign::measure() {
  recipe_ = recipe();
  Watch saves(run_ / "checkpoints");
  Process process({"train", recipe_, "--run-dir", run_});
  std::vector<double> durations;
  while (!process.ended_within(0)) {
    if (!saves.wait(0.05)) continue;
    const double begin = seconds_now();
    while (inside_save(run_) && !process.ended_within(0)) usleep(20);
    durations.push_back(seconds_now() - begin);
    saves.wait(0);
  }
  const Outcome outcome = process.wait();
  if (outcome.code != 0) throw std::runtime_error("the run left alone: " + outcome.str());
  if (durations.empty()) throw std::runtime_error("no save was seen");
  fs::rename(run_, reference_);
  std::sort(durations.begin(), durations.end());
  run_seconds_ = outcome.seconds;
  save_seconds_ = durations[durations.size() / 2];
  std::printf("a run takes %.2f s, a save %.1f ms\n", run_seconds_, save_seconds_ * 1e3);
}

// Kills the run again and again until it manages to end.
void Campaign::life(const std::string& name) {
  while (tally_.count("kills") < options_.count) {
    if (!kill_once()) break;
  }
  const Outcome last = quern(command());
  if (last.code != 0) return tally_.fail(name + " did not end: " + last.str());
  const std::string differs = difference(run_, reference_);
  if (!differs.empty()) tally_.fail(name + ": " + differs);
  for (const fs::path& left : debris(run_)) tally_.fail("left behind: " + left.string());
  tally_.add("runs that ended like the one left alone", differs.empty());
}

// False when the run ended before it could be killed.
bool Campaign::kill_once() {
  const auto before = checkpoints(run_);
  const std::int64_t published = before.empty() ? 0 : before.rbegin()->first;
  // Steering: kills inside a save are kept at four in ten.
  const bool steer = tally_.count("kills inside a save") * 10 < tally_.count("kills") * 4;
  Watch saves(run_ / "checkpoints");
  Process process(command());
  if (steer) {
    for (int skip = int(random(3)); skip >= 0; --skip) {
      while (!saves.wait(0.02) && !process.ended_within(0)) continue;
    }
    usleep(useconds_t(random(save_seconds_) * 1e6));
  } else {
    // Long enough to get on, now and then short enough to end while starting.
    process.ended_within(random(run_seconds_));
  }
  process.send(SIGKILL);
  const Outcome outcome = process.wait();
  if (outcome.code != -SIGKILL) {
    if (outcome.code != 0) tally_.fail("ended by itself: " + outcome.str());
    return false;
  }
  tally_.add("kills");
  if (inside_save(run_)) tally_.add("kills inside a save");
  look_at(published);
  return true;
}

void Campaign::look_at(std::int64_t published_before) {
  const std::string number = "kill " + std::to_string(tally_.count("kills"));
  const auto after = checkpoints(run_);
  if (after.empty()) {
    tally_.add("kills before the first checkpoint");
    if (published_before > 0) tally_.fail(number + ": all checkpoints are gone");
    if (logged_step(run_) > options_.every) tally_.fail(number + ": no checkpoint yet");
    return;
  }
  const std::int64_t newest = after.rbegin()->first;
  if (newest < published_before) tally_.fail(number + ": the newest checkpoint is gone");
  const Verified verified = verify(run_);
  if (verified.step != newest) {
    tally_.fail(number + ": step " + std::to_string(newest) +
                " is not whole: " + verified.outcome.str());
  }
  // The log is written after each step; the save follows.
  const std::int64_t lost = logged_step(run_) - verified.step;
  if (lost > options_.every) tally_.fail(number + ": " + std::to_string(lost) + " steps are lost");
}

int Campaign::go() {
  measure();
  const double start = seconds_now();
  for (int i = 1; tally_.count("kills") < options_.count; ++i) {
    life("run " + std::to_string(i));
    fs::remove_all(run_);
  }
  if (tally_.count("kills inside a save") * 10 < tally_.count("kills") * 3) {
    tally_.fail("too few kills inside a save");
  }
  std::printf("%.0f s\n", seconds_now() - start);
  return tally_.finish("kill_campaign, seed " + std::to_string(options_.seed));
}

}  // namespace
}  // namespace quern::crash

int main(int argc, char** argv) {
  quern::crash::Options options;
  CLI::App app("Kills runs at random moments and resumes them.");
  app.add_option("--count", options.count, "kills")->capture_default_str();
  app.add_option("--seed", options.seed, "of the moments")->capture_default_str();
  app.add_option("--steps", options.steps, "of a run")->capture_default_str();
  app.add_option("--every", options.every, "steps between saves")->capture_default_str();
  app.add_option("--hidden-size", options.hidden_size, "of the model")->capture_default_str();
  app.add_option("--finetune", options.finetune, "a method: runs that start from another's weights")
      ->check(CLI::IsMember({"full", "experts", "lora"}));
  app.add_option("--folder", options.folder, "where to work");
  return quern::crash::campaign_main(app, argc, argv,
                                     [&] { return quern::crash::Campaign(options).go(); });
}
