// SPDX-License-Identifier: MIT
#include "quern/recipes/launch.h"

#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "quern/autograd/error.h"
#include "quern/autograd/kernels/parallel.h"
#include "quern/distributed/runtime.h"

namespace quern {
namespace {

// Unless the user has said otherwise.
void set_default(const char* name, const char* value) { ::setenv(name, value, 0); }

std::vector<std::string> without_ranks(int argc, char** argv) {
  std::vector<std::string> kept;
  for (int i = 0; i < argc; ++i) {
    const std::string_view word = argv[i];
    if (word == "--ranks") {
      ++i;
    } else if (!word.starts_with("--ranks=")) {
      kept.emplace_back(word);
    }
  }
  kept[0] = "/proc/self/exe";
  char path[4096] = {};
  if (::readlink("/proc/self/exe", path, sizeof path - 1) > 0) kept[0] = path;
  return kept;
}

}  // namespace

void launch_ranks(i64 ranks, int argc, char** argv) {
  if (launched_as_rank()) {
    throw ConfigError({.key = "--ranks",
                       .what = "this is one of several ranks already",
                       .hint = "leave --ranks out under mpirun and srun"});
  }
  if (::geteuid() == 0) {  // as root mpirun wants to be told twice
    set_default("OMPI_ALLOW_RUN_AS_ROOT", "1");
    set_default("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
  }
  // After SIGTERM mpirun gives ranks a second by default; saving may need more.
  set_default("OMPI_MCA_odls_base_sigkill_timeout", "120");
  std::vector<std::string> words = {"mpirun", "-n", std::to_string(ranks), "--bind-to", "none"};
  if (ranks > available_cores()) words.emplace_back("--oversubscribe");
  for (std::string& word : without_ranks(argc, argv)) words.push_back(std::move(word));
  std::vector<char*> pointers;
  for (std::string& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  ::execvp(pointers[0], pointers.data());
  throw IoError({.key = "--ranks",
                 .what = std::string("mpirun: ") + std::strerror(errno),
                 .hint = "install Open MPI (openmpi-bin), or leave --ranks out"});
}

}  // namespace quern
