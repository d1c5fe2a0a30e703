// SPDX-License-Identifier: MIT
#include "quern/recipes/probe.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>

#include "quern/autograd/kernels/parallel.h"
#include "quern/autograd/ops/matmul.h"
#include "quern/distributed/runtime.h"
#include "quern/layers/internal/check_range.h"
#include "quern/recipes/internal/units.h"
#include "quern/recipes/stop_signal.h"
#include "quern/recipes/trainer.h"

namespace quern {
namespace {

constexpr i64 kMaxThreads = 1 << 10;

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Ranks that a launcher has bound have cores of their own; others share them.
int own_cores() {
  const int cores = available_cores(), ranks = ranks_on_this_machine();
  const bool bound = i64(cores) * ranks <= i64(::sysconf(_SC_NPROCESSORS_ONLN));
  return bound ? cores : std::max(1, cores / ranks);
}

}  // namespace

double measure_product_rate(DType dtype) {
  constexpr i64 k = 512;
  double rate = 0;
  const double start = seconds_now();
  // A small product first: where even that is slow (an emulator), it has to do.
  for (const i64 n : {256, 2048, 2048, 2048, 2048, 2048, 2048, 2048, 2048}) {
    if (n > 256 && seconds_now() - start > 0.2) break;
    const Var a(Tensor::full({n, k}, dtype, 0.7));
    Parameter weight("weight", {n, k}, ParamKind::head, dtype);
    weight.value.fill(0.3);
    weight.round_image();
    Tape silent(false);
    const Var b = silent.parameter(weight);
    const double begin = seconds_now();
    ops::linear(silent, a, b);
    rate = std::max(rate, 2.0 * double(n * k * n) / (seconds_now() - begin));
  }
  return rate;
}

double measure_memory_bandwidth() {
  constexpr i64 n = i64(16) << 20, chunk = i64(1) << 16;  // 64 MB each: beyond most caches
  std::vector<float> a(n, 1), b(n, 2), c(n, 0);
  double rate = 0;
  const double start = seconds_now();
  for (int i = 0; i < 8 && (i == 0 || seconds_now() - start < 0.5); ++i) {
    const double begin = seconds_now();
    parallel_chunks(n, chunk, [&](i64 first, i64 end) {
      for (i64 j = first; j < end; ++j) c[size_t(j)] = a[size_t(j)] + 3 * b[size_t(j)];
    });
    rate = std::max(rate, 3.0 * 4.0 * double(n) / (seconds_now() - begin));
  }
  return rate;
}

StepProbe probe_step(const Recipe& recipe, std::shared_ptr<const Sampler> sampler, double seconds) {
  Recipe trial = recipe;
  trial.train.steps = std::max<i64>(trial.train.steps, trial.optim.warmup_steps + 1);
  Trainer trainer(trial, std::move(sampler));
  const double start = seconds_now();
  std::vector<double> times;
  // The last step's size is the one that counts when the batch grows.
  const i64 step = trial.train.steps - 1;
  // A signal makes it short, not wrong: the run that saves and stops now has its steps.
  const auto enough = [&] {
    if (times.size() < 2) return false;
    if (stop_requested() || times.size() == 12) return true;
    return times.size() >= 3 && seconds_now() - start >= seconds;
  };
  while (!enough()) {
    const double begin = seconds_now();
    trainer.step(trainer.batch_of(step));
    times.push_back(seconds_now() - begin);
  }
  times.erase(times.begin());  // the first step finds no memory to reuse
  std::sort(times.begin(), times.end());
  return {times[times.size() / 2], resident_bytes()};
}

void choose_steps(Recipe& recipe, std::shared_ptr<const Sampler> sampler, i64 ranks) {
  Recipe part = recipe;
  part.train.lanes /= ranks;
  part.train.batch_sequences /= ranks;
  part.train.batch_sequences_start /= ranks;
  const StepProbe probe = probe_step(part, std::move(sampler));
  const double steps = recipe.train.target_minutes * 60 / probe.seconds_per_step;
  recipe.train.steps = std::max<i64>(10, i64(steps));
  recipe.optim.warmup_steps = std::min(recipe.optim.warmup_steps, recipe.train.steps / 5);
  std::printf("%.3f s per step: %lld steps in %s\n", probe.seconds_per_step,
              static_cast<long long>(recipe.train.steps),
              internal::duration_text(recipe.train.target_minutes * 60).c_str());
}

std::size_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  std::size_t total = 0, resident = 0;
  file >> total >> resident;
  return resident * std::size_t(sysconf(_SC_PAGESIZE));
}

void use_threads(i64 threads) {
  internal::check_range("threads", threads, 0, kMaxThreads, "0: one for each core");
  set_num_threads(threads > 0 ? int(threads) : own_cores());
}

}  // namespace quern
