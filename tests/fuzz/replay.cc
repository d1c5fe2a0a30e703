// SPDX-License-Identifier: MIT
// Runs a fuzz target over files, without libFuzzer: what ctest does with the kept inputs.
//   recipe_replay FILE_OR_FOLDER...
//   recipe_replay --large BYTES          # the inputs of large_inputs.h
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "tests/fuzz/guard.h"
#include "tests/fuzz/large_inputs.h"

namespace fs = std::filesystem;

namespace {

void run(const std::string& name, const std::string& bytes) {
  std::printf("%s\n", name.c_str());  // the last one printed is the one that failed
  std::fflush(stdout);
  LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 3 && std::string(argv[1]) == "--large") {
    quern::fuzz::for_each_large_input(std::stoul(argv[2]), run);
    return 0;
  }
  std::vector<fs::path> files;
  for (int i = 1; i < argc; ++i) {
    if (!fs::is_directory(argv[i]))
      files.emplace_back(argv[i]);
    else
      std::copy(fs::directory_iterator(argv[i]), {}, std::back_inserter(files));
  }
  std::sort(files.begin(), files.end());
  for (const fs::path& file : files) {
    std::ifstream in(file, std::ios::binary);
    const std::string bytes(std::istreambuf_iterator<char>(in), {});
    if (!in) {
      std::fprintf(stderr, "%s: cannot be read\n", file.c_str());
      return 3;
    }
    run(file.string(), bytes);
  }
  std::printf("%zu inputs\n", files.size());
  return files.empty() ? 2 : 0;  // a corpus that is not there tests nothing
}
