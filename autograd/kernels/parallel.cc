// SPDX-License-Identifier: MIT
#include "quern/autograd/kernels/parallel.h"

#include <omp.h>
#include <unistd.h>

#include <cstdlib>

namespace quern {

void set_num_threads(int n) { omp_set_num_threads(n < 1 ? 1 : n); }

int num_threads() { return omp_get_max_threads(); }

void restart_with_quiet_threads(char** argv) {
  if (std::getenv("GOMP_SPINCOUNT") != nullptr || std::getenv("OMP_WAIT_POLICY") != nullptr) return;
  setenv("GOMP_SPINCOUNT", "1000", 1);
  execv("/proc/self/exe", argv);  // returns only where it fails, and then all works, spinning
}

void parallel_for_raw(i64 n, void (*task)(void*, i64), void* context) {
  if (n <= 0) return;
  if (n == 1 || omp_in_parallel() || omp_get_max_threads() == 1) {
    for (i64 i = 0; i < n; ++i) task(context, i);
    return;
  }
#pragma omp parallel for schedule(dynamic, 1)
  for (i64 i = 0; i < n; ++i) task(context, i);
}

}  // namespace quern
