// SPDX-License-Identifier: MIT
// The program golden_check: compares Quern with files of golden data (README.md beside this file).
#include <filesystem>
#include <iostream>
#include <string>
#include <vector>

#include "quern/autograd/kernels/cpu.h"
#include "tests/golden/check.h"

namespace {

constexpr char kUsage[] =
    "usage: golden_check [--verbose] FILE...\n"
    "Runs the model of each file of golden data in both precisions and prints a line per "
    "quantity:\n"
    "file, precision, quantity, error, tolerance, verdict. --verbose: a line per gradient too.\n"
    "Exit code: 0 all within tolerance, 1 a failure, 2 a file that cannot be read or bad usage.\n"
    "Example: golden_check tests/golden/*.h5\n";

using namespace quern;

int run(const std::vector<std::string>& paths, bool verbose) {
  std::vector<golden::GoldenFile> files;  // all are opened before the first is run
  for (const std::string& path : paths) files.emplace_back(path);
  int lines = 0, failures = 0;
  for (size_t i = 0; i < files.size(); ++i) {
    golden::Report report(std::cout, std::filesystem::path(paths[i]).filename().string(), verbose);
    golden::check(files[i], report);
    lines += report.lines();
    failures += report.failures();
  }
  std::cout << files.size() << (files.size() == 1 ? " file, " : " files, ") << lines
            << " quantities, " << failures << " failed (" << name_of(kernel_set()) << " kernels)\n";
  return failures > 0 ? 1 : 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> paths;
  bool verbose = false;
  for (const std::string& argument : std::vector<std::string>(argv + 1, argv + argc)) {
    if (argument == "--help") {
      std::cout << kUsage;
      return 0;
    }
    if (argument == "--verbose") {
      verbose = true;
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
  try {
    return run(paths, verbose);
  } catch (const std::exception& e) {
    std::cerr << "golden_check: " << e.what() << "\n";
    return 2;
  }
}
