// SPDX-License-Identifier: MIT
// The program golden_check: compares Quern with files of golden data (README.md beside this file).
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "quern/autograd/kernels/cpu.h"
#include "quern/distributed/runtime.h"
#include "tests/golden/check.h"

namespace {

constexpr char kUsage[] =
    "usage: golden_check [--verbose] [--ep-size=N] FILE...\n"
    "Runs the model of each file of golden data in both precisions and prints a line per "
    "quantity:\n"
    "file, precision, quantity, error, tolerance, verdict. --verbose: a line per gradient too.\n"
    "Under mpirun all ranks share each model, with its routed experts over groups of N ranks; a "
    "file\nwhose experts cannot be shared so is left out.\n"
    "Exit code: 0 all within tolerance, 1 a failure, 2 a file that cannot be read or bad usage.\n"
    "Example: golden_check tests/golden/*.h5\n";

using namespace quern;

bool shares_experts(const golden::GoldenFile& file, i64 ranks) {
  return ranks == 1 || file.config().n_routed_experts % ranks == 0;
}

int run(const std::vector<std::string>& paths, bool verbose, const ParallelGroups& groups) {
  std::vector<golden::GoldenFile> files;  // all are opened before the first is run
  for (const std::string& path : paths) files.emplace_back(path);
  int lines = 0, failures = 0;
  for (size_t i = 0; i < files.size(); ++i) {
    const std::string name = std::filesystem::path(paths[i]).filename().string();
    if (!shares_experts(files[i], groups.ep.size())) {
      std::cout << name << " is left out\n";
      continue;
    }
    // The first rank speaks; another one does where it alone fails.
    std::ostringstream aside;
    const bool leads = groups.world.rank() == 0;
    golden::Report report(leads ? std::cout : aside, name, verbose);
    golden::check(files[i], report, golden::Layout(groups));
    if (!leads && report.failures() > 0) {
      std::cerr << "rank " << groups.world.rank() << ":\n" << aside.str();
    }
    lines += report.lines();
    failures += report.failures();
  }
  if (groups.world.any(failures > 0)) failures = std::max(failures, 1);
  if (groups.world.rank() != 0) return failures > 0 ? 1 : 0;
  std::cout << files.size() << (files.size() == 1 ? " file, " : " files, ") << lines
            << " quantities, " << failures << " failed (" << name_of(kernel_set()) << " kernels)\n";
  return failures > 0 ? 1 : 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> paths;
  bool verbose = false;
  i64 ep_size = 1;
  for (const std::string& argument : std::vector<std::string>(argv + 1, argv + argc)) {
    if (argument == "--help") {
      std::cout << kUsage;
      return 0;
    }
    if (argument == "--verbose") {
      verbose = true;
    } else if (argument.starts_with("--ep-size=")) {
      ep_size = std::atoll(argument.c_str() + 10);
    } else if (argument.starts_with("-")) {
      std::cerr << "golden_check: unknown option " << argument << " (see --help)\n";
      return 2;
    } else {
      paths.push_back(argument);
    }
  }
  if (paths.empty()) {
    std::cerr << "golden_check: no file named (see --help)\n";
    return 2;
  }
  const Runtime runtime;
  try {
    return run(paths, verbose, ParallelGroups(runtime.world(), ep_size));
  } catch (const std::exception& e) {
    std::cerr << "golden_check: " << e.what() << "\n";
    if (!runtime.world().alone()) runtime.abort(2);
    return 2;
  }
}
