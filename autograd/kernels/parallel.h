// SPDX-License-Identifier: MIT
// The only place that starts threads. Work is cut into chunks whose bounds depend on sizes alone,
// so results do not depend on the number of threads.
#pragma once

#include "quern/autograd/kernels/types.h"

namespace quern {

// Threads that parallel_for may use; at least 1. Set once, before work starts.
void set_num_threads(int n);
int num_threads();

// Cores this process may use: its affinity, or, where OMP_PROC_BIND has bound this thread to one of
// them, all those that threads are bound to.
int available_cores();

// For the first line of a main(): waiting threads of OpenMP spin, which on a shared machine starves
// whoever they wait for. The runtime reads its settings before main, so unless the environment has
// some, this starts the program again with threads that soon sleep. A binding of this thread by
// OMP_PROC_BIND is undone before, or the program would find itself with one core.
void restart_with_quiet_threads(char** argv);

// What this thread does after each task that it takes of a parallel_for of its own; null, as at
// first: nothing. For whoever must be called now and then while it computes, such as MPI.
void set_between_tasks(void (*call)());

// Calls task(context, i) once for every i in [0, n), from several threads, in no fixed order.
// Calls inside a task run serially. Tasks must not throw.
void parallel_for_raw(i64 n, void (*task)(void* context, i64 i), void* context);

template <class F>
void parallel_for(i64 n, F&& f) {
  parallel_for_raw(
      n, [](void* context, i64 i) { (*static_cast<F*>(context))(i); },
      const_cast<void*>(static_cast<const void*>(&f)));
}

// Cuts [0, n) into chunks of `size` and calls f(begin, end) for each of them.
template <class F>
void parallel_chunks(i64 n, i64 size, F&& f) {
  parallel_for((n + size - 1) / size, [&](i64 c) {
    const i64 begin = c * size;
    f(begin, begin + size < n ? begin + size : n);
  });
}

}  // namespace quern
