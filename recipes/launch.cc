// SPDX-License-Identifier: MIT
#include "quern/recipes/launch.h"

#include <signal.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
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

volatile sig_atomic_t child = 0, asked = 0;  // handlers reach nothing but globals

void pass_on(int number) {
  const bool again = number != SIGUSR1 && asked;
  if (number != SIGUSR1) asked = 1;
  ::kill(pid_t(child), again ? SIGTERM : SIGUSR1);
}

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

int launch_ranks(i64 ranks, int argc, char** argv) {
  if (launched_as_rank()) {
    throw ConfigError({.key = "--ranks",
                       .what = "this is one of several ranks already",
                       .hint = "leave --ranks out under mpirun and srun"});
  }
  if (::geteuid() == 0) {  // as root mpirun wants to be told twice
    set_default("OMPI_ALLOW_RUN_AS_ROOT", "1");
    set_default("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
  }
  // What mpirun gives ranks to end by themselves, once one has died: it waits for all of that.
  set_default("OMPI_MCA_odls_base_sigkill_timeout", "2");
  std::vector<std::string> words = {"mpirun", "--quiet", "-n", std::to_string(ranks), "--bind-to", "none"};
  if (ranks > available_cores()) words.emplace_back("--oversubscribe");
  for (std::string& word : without_ranks(argc, argv)) words.push_back(std::move(word));
  std::vector<char*> pointers;
  for (std::string& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  child = ::fork();
  if (child == 0) {
    ::setpgid(0, 0);  // Ctrl-C is for this process, which passes it on
#ifdef __linux__
    ::prctl(PR_SET_PDEATHSIG, SIGUSR1);  // and if it is killed: save and stop
#endif
    ::execvp(pointers[0], pointers.data());
    std::fprintf(stderr, "quern: mpirun: %s (install Open MPI, or leave --ranks out)\n",
                 std::strerror(errno));
    ::_exit(int(ExitCode::kEnvironment));
  }
  if (child < 0) throw IoError({.key = "--ranks", .what = std::strerror(errno)});
  struct sigaction action {};
  action.sa_handler = pass_on;
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1}) ::sigaction(signal, &action, nullptr);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace quern
