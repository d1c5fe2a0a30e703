// SPDX-License-Identifier: MIT
#include "quern/autograd/kernels/parallel.h"

#include <omp.h>
#include <sched.h>
#include <unistd.h>

#include <cstdlib>
#include <vector>

namespace quern {
namespace {

// The cores of all places that OpenMP binds threads to; none where it does not bind.
cpu_set_t bound_cores() {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  for (int place = 0; place < omp_get_num_places(); ++place) {
    std::vector<int> ids(std::size_t(omp_get_place_num_procs(place)));
    omp_get_place_proc_ids(place, ids.data());
    for (const int id : ids) {
      if (id >= 0 && id < CPU_SETSIZE) CPU_SET(std::size_t(id), &cores);
    }
  }
  return cores;
}

thread_local void (*between_tasks)() = nullptr;

}  // namespace

void set_between_tasks(void (*call)()) { between_tasks = call; }

void set_num_threads(int n) { omp_set_num_threads(n < 1 ? 1 : n); }

int num_threads() { return omp_get_max_threads(); }

int available_cores() {
  cpu_set_t cores = bound_cores();
  if (CPU_COUNT(&cores) > 0) return CPU_COUNT(&cores);
  CPU_ZERO(&cores);
  return sched_getaffinity(0, sizeof cores, &cores) == 0 ? CPU_COUNT(&cores) : 1;
}

void restart_with_quiet_threads(char** argv) {
  if (std::getenv("GOMP_SPINCOUNT") != nullptr || std::getenv("OMP_WAIT_POLICY") != nullptr) return;
  setenv("GOMP_SPINCOUNT", "1000", 1);
  const cpu_set_t cores = bound_cores();
  if (CPU_COUNT(&cores) > 0) sched_setaffinity(0, sizeof cores, &cores);
  execv("/proc/self/exe", argv);  // returns only where it fails, and then all works, spinning
}

void parallel_for_raw(i64 n, void (*task)(void*, i64), void* context) {
  if (n <= 0) return;
  const auto call = omp_in_parallel() ? nullptr : between_tasks;
  const auto run = [&](i64 i) {
    task(context, i);
    if (call != nullptr && omp_get_thread_num() == 0) call();
  };
  if (n == 1 || omp_in_parallel() || omp_get_max_threads() == 1) {
    for (i64 i = 0; i < n; ++i) run(i);
    return;
  }
#pragma omp parallel for schedule(dynamic, 1)
  for (i64 i = 0; i < n; ++i) run(i);
}

}  // namespace quern
