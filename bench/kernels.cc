// SPDX-License-Identifier: MIT
// The `quern_bench_kernels` program: verifies each kernel and then times it.
#include <benchmark/benchmark.h>

#include <cstdio>
#include <cstdlib>

#include "bench/cases.h"
#include "quern/autograd/kernels/cpu.h"
#include "quern/autograd/kernels/parallel.h"
#include "quern/recipes/probe.h"

namespace quern::bench {
namespace {

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const auto& some : {product_cases(), attention_cases(), row_cases(), movement_cases()}) {
    cases.insert(cases.end(), some.begin(), some.end());
  }
  return cases;
}

void time_case(benchmark::State& state, const Case& c, double peak) {
  c.run();
  if (const double error = c.error(); !(error <= 1)) {
    state.SkipWithError(("wrong: " + std::to_string(error) + " of the tolerance").c_str());
  }
  for (auto _ : state) c.run();
  const auto rate = benchmark::Counter::kIsIterationInvariantRate;
  if (c.flops > 0) {
    state.counters["GFLOP/s"] = benchmark::Counter(c.flops / 1e9, rate);
    state.counters["of_peak"] = benchmark::Counter(c.flops / peak, rate);
  }
  if (c.bytes > 0) state.counters["GB/s"] = benchmark::Counter(c.bytes / 1e9, rate);
}

}  // namespace
}  // namespace quern::bench

// QUERN_THREADS: the number of threads; one for each core without it.
int main(int argc, char** argv) {
  using namespace quern;
  restart_with_quiet_threads(argv);
  const char* threads = std::getenv("QUERN_THREADS");
  use_threads(threads ? std::atoi(threads) : 0);
  const double peak = measure_product_rate();
  std::printf("kernels %s, %d threads, peak (a product of 2048x512x2048) %.0f GFLOP/s\n",
              name_of(kernel_set()), num_threads(), peak / 1e9);
  for (const bench::Case& c : bench::all_cases()) {
    benchmark::RegisterBenchmark(c.name.c_str(), bench::time_case, c, peak)->UseRealTime();
  }
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
