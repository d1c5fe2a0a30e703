// SPDX-License-Identifier: MIT
// What several ranks need of a machine: cores of their own, and ways from one to the other.
#include <sys/prctl.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>

#include "quern/recipes/doctor.h"
#include "quern/recipes/internal/units.h"

namespace quern {
namespace {

using Status = Diagnosis::Status;

constexpr i64 kSharedBytesOfRank = i64(16) << 20;  // Open MPI's segment, and room to spare

// The environment's number, 0 where it has none.
int number_of(const Environment& environment, const std::string& name) {
  return std::atoi(environment(name).c_str());
}

std::string count_of(int n, const char* what) {
  return std::to_string(n) + " " + what + (n == 1 ? "" : "s");
}

// A child that waits to be read, and one that reads it, as ranks of a machine are to each other.
int read_a_sibling() {
  int value = 7;
  const pid_t read = ::fork();
  if (read == 0) {
    ::prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);  // as Open MPI does
    for (;;) ::pause();
  }
  if (read < 0) return errno;
  ::usleep(20000);
  const pid_t reader = ::fork();
  if (reader == 0) {
    int copy = 0;
    iovec to{&copy, sizeof copy}, from{&value, sizeof value};
    const bool good = ::process_vm_readv(read, &to, 1, &from, 1, 0) == ssize_t(sizeof copy);
    ::_exit(good && copy == 7 ? 0 : errno > 0 ? errno : EIO);
  }
  int status = 0;
  const bool ended = reader > 0 && ::waitpid(reader, &status, 0) == reader;
  ::kill(read, SIGKILL);
  ::waitpid(read, nullptr, 0);
  return ended && WIFEXITED(status) ? WEXITSTATUS(status) : EIO;
}

}  // namespace

Diagnosis diagnose_mpi(const CoreCount& cores, const Environment& environment) {
  const int ranks = std::max(
      {number_of(environment, "OMPI_COMM_WORLD_SIZE"), number_of(environment, "PMI_SIZE"),
       environment("SLURM_STEP_ID").empty() ? 0 : number_of(environment, "SLURM_STEP_NUM_TASKS")});
  const int here = std::max(1, number_of(environment, "OMPI_COMM_WORLD_LOCAL_SIZE"));
  const std::string job = environment("SLURM_JOB_ID");
  std::string found = ranks > 0 ? count_of(ranks, "rank") : "not started by mpirun or srun";
  if (ranks > 1) found += ", " + std::to_string(here) + " of them here";
  if (!job.empty()) found += ", Slurm job " + job;
  const std::string binding = environment("SLURM_CPU_BIND");
  if (!binding.empty()) found += ", SLURM_CPU_BIND=" + binding;
  // With one or two ranks mpirun binds each to a core, on which all threads of it then wait.
  if (ranks > 0 && cores.allowed == 1 && here < cores.online) {
    return {"MPI", Status::warn,
            found + ", each bound to one core of " + std::to_string(cores.online),
            "mpirun --bind-to none, or --map-by slot:PE=N --bind-to core for N cores each; `quern "
            "train --ranks` does the first"};
  }
  if (here > cores.online) {
    return {"MPI", Status::warn, found + ", on " + count_of(cores.online, "core"),
            "more ranks than cores take turns: start as many as there are cores, or fewer"};
  }
  const int cpus = number_of(environment, "SLURM_CPUS_PER_TASK");
  if (!job.empty() && cpus <= 1) {
    return {"MPI", Status::warn, found, "ask Slurm for cores: --cpus-per-task N"};
  }
  return {"MPI", Status::ok, found, ""};
}

Diagnosis diagnose_shared_memory(i64 free_bytes, int ranks) {
  if (free_bytes < 0) {
    return {
        "shared memory", Status::warn, "there is no /dev/shm",
        "ranks of a machine then speak through files in TMPDIR, or by TCP: mount a tmpfs there"};
  }
  const std::string found = internal::bytes_text(std::size_t(free_bytes)) + " free in /dev/shm";
  if (free_bytes >= ranks * kSharedBytesOfRank) return {"shared memory", Status::ok, found, ""};
  return {"shared memory", Status::warn, found,
          "too little for " + count_of(ranks, "rank") +
              ", which end with a bus error: in containers --shm-size=1g, or mpirun --mca btl "
              "self,tcp"};
}

Diagnosis diagnose_single_copy(int error) {
  if (error == 0) return {"single copy", Status::ok, "ranks read each other's memory (CMA)", ""};
  return {"single copy", Status::warn, std::strerror(error),
          "ranks of this machine copy large messages twice: allow process_vm_readv (in containers "
          "--cap-add SYS_PTRACE; elsewhere sysctl kernel.yama.ptrace_scope=0)"};
}

std::vector<Diagnosis> diagnose_ranks(const CoreCount& cores, const Environment& environment) {
  struct statfs facts {};
  const bool there = ::statfs("/dev/shm", &facts) == 0;
  const i64 free = there ? i64(facts.f_bavail) * i64(facts.f_bsize) : -1;
  const int ranks = std::max(cores.allowed, number_of(environment, "OMPI_COMM_WORLD_LOCAL_SIZE"));
  return {diagnose_mpi(cores, environment), diagnose_shared_memory(free, ranks),
          diagnose_single_copy(read_a_sibling())};
}

}  // namespace quern
