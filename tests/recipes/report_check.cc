// SPDX-License-Identifier: MIT
// `report_check FILE`: is every panel of a report there, with something in it? One line for each
// fault, and exit code 1 when there is one.
#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>

#include "tests/support/report_faults.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: report_check report.html\n");
    return 2;
  }
  std::ifstream in(argv[1], std::ios::binary);
  if (!in) {
    std::fprintf(stderr, "report_check: %s cannot be opened\n", argv[1]);
    return 2;
  }
  const std::string html{std::istreambuf_iterator<char>(in), {}};
  const auto faults = quern::testing::report_faults(html);
  for (const std::string& fault : faults) std::printf("%s: %s\n", argv[1], fault.c_str());
  return faults.empty() ? 0 : 1;
}
