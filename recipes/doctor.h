// SPDX-License-Identifier: MIT
// `quern doctor`: is this machine set up so that training runs as fast and as safely as it can?
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "quern/recipes/machine.h"

namespace quern {

struct Diagnosis {
  enum class Status { ok, warn, bad };  // bad: a run cannot work
  std::string what;
  Status status = Status::ok;
  std::string found;
  std::string advice;  // what to do; empty when nothing
};

const char* name_of(Diagnosis::Status status);

// A variable of the environment, empty where it is not set.
using Environment = std::function<std::string(const std::string& name)>;

// Everything below, for the folder that runs go to (it, or the nearest one above that exists).
// Takes a few seconds; leaves nothing behind.
std::vector<Diagnosis> examine(const std::filesystem::path& folder);

// The parts, with what they judge as arguments.
struct CoreCount {
  int online = 1;   // of the machine
  int allowed = 1;  // that this process may use
  double quota = std::numeric_limits<double>::infinity();
  double load = 0;  // processes that want to run, without this one
};
std::vector<Diagnosis> diagnose_processor(const std::vector<std::string>& flags,
                                          const Environment& environment);
std::vector<Diagnosis> diagnose_cores(const CoreCount& cores, const Environment& environment);
Diagnosis diagnose_memory(i64 total, i64 available, i64 limit);
std::vector<Diagnosis> diagnose_ranks(const CoreCount& cores, const Environment& environment);
Diagnosis diagnose_mpi(const CoreCount& cores, const Environment& environment);
// Bytes free in /dev/shm, negative where there is none, for so many ranks of this machine.
Diagnosis diagnose_shared_memory(i64 free_bytes, int ranks);
// Of reading another rank's memory: an errno, or 0.
Diagnosis diagnose_single_copy(int error);
std::vector<Diagnosis> diagnose_disk(const std::filesystem::path& folder);
std::vector<Diagnosis> diagnose_speed();

}  // namespace quern
