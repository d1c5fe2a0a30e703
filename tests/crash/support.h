// SPDX-License-Identifier: MIT
// What the crash campaigns share: starting the `quern` program, a run small enough to be started
// a thousand times, and the few facts about a run's folder that they rely on.
#pragma once

#include <sys/types.h>

#include <CLI/CLI.hpp>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace quern::crash {

namespace fs = std::filesystem;

double seconds_now();

// ---- the program ----

struct Outcome {
  int code = 0;        // its exit code, or minus the signal that ended it
  double seconds = 0;  // from start to end
  std::string output;  // both streams

  std::string last_line() const;
  std::string str() const;  // the code and the last line, for messages
};

using Environment = std::map<std::string, std::string>;

// `quern` with some arguments, running; killed at the end of the scope.
class Process {
 public:
  explicit Process(const std::vector<std::string>& arguments, const Environment& environment = {});
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  void send(int signal) const;
  bool catches(int signal) const;  // has a handler for it by now
  bool ended_within(double seconds) const;
  Outcome wait(double limit = 60);  // ends it at the limit; the code is then -SIGKILL

 private:
  pid_t pid_ = -1;
  int handle_ = -1, output_ = -1;
  double start_ = 0;
};

Outcome quern(const std::vector<std::string>& arguments, const Environment& environment = {});

// ---- a run ----

struct Toy {
  std::int64_t steps = 8;
  std::int64_t checkpoint_every = 2;
  std::int64_t keep_checkpoints = 2;
  std::int64_t batch_sequences = 4;
  std::int64_t vocab_size = 280;
  std::int64_t hidden_size = 8;
  std::int64_t n_routed_experts = 2;
  std::string more_train;  // further fields of train { }
  std::string more;        // further blocks
};

// A folder with a corpus, removed at the end of the scope. With an empty `parent` it lies where
// temporary files do.
class Workspace {
 public:
  explicit Workspace(const fs::path& parent);
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  fs::path operator/(const std::string& name) const { return folder_ / name; }
  // A recipe in a file of this name.
  fs::path recipe(const std::string& name, const Toy& toy) const;

 private:
  fs::path folder_;
};

// ---- its folder ----

// The published checkpoints by step.
std::map<std::int64_t, fs::path> checkpoints(const fs::path& run);
// Files and folders that an interrupted writer has left.
std::vector<fs::path> debris(const fs::path& run);
// One is being written, or was when its writer ended.
bool inside_save(const fs::path& run);
// The last step written down in the run's log; 0 where there is none.
std::int64_t logged_step(const fs::path& run);
// The step of the first event of this name whose detail begins so; 0 where there is none.
std::int64_t event_step(const fs::path& run, const std::string& name, const std::string& detail);
// The processes that mpirun has started for the run, by rank.
std::map<int, pid_t> ranks_of(const fs::path& run);

std::string bytes_of(const fs::path& file);  // empty where there is none
// "" or what differs between the newest checkpoints of two runs.
std::string difference(const fs::path& run, const fs::path& reference);

// What `quern inspect --verify` makes of a run.
struct Verified {
  Outcome outcome;
  std::int64_t step = -1;  // of the newest checkpoint; -1 where it, or another one, is not whole
};
Verified verify(const fs::path& run);

// ---- figures ----

// Counts what was tried and what went wrong; says the first twenty of those.
class Tally {
 public:
  void fail(const std::string& what);
  void add(const std::string& name, std::int64_t n = 1) { counts_[name] += n; }
  std::int64_t count(const std::string& name) const;
  int finish(const std::string& campaign) const;  // prints all counts; the program's exit code

 private:
  std::map<std::string, std::int64_t> counts_;
  std::int64_t failures_ = 0;
};

// The rest of a campaign's main(): reads the options and runs it; what it throws ends it with 1.
int campaign_main(CLI::App& app, int argc, char** argv, const std::function<int()>& campaign);

}  // namespace quern::crash
