// SPDX-License-Identifier: MIT
#include "tests/fuzz/guard.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>

#include "tests/fuzz/memory_meter.h"

namespace quern::fuzz {
namespace {

constexpr std::size_t kFreeBytes = std::size_t(64) << 20;
constexpr double kMaxSeconds = 1.0;

double processor_seconds() {
  timespec t{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

// Printed when the process ends well.
struct Totals {
  ~Totals() {
    std::fprintf(stderr,
                 "guard: %zu inputs, %zu taken, %zu refused; peak %.1f MB (at most %.1f %% of what "
                 "the input allows); slowest %.0f ms, all %.0f s of processor time\n",
                 inputs, taken, inputs - taken, double(peak) / 1e6, 100 * share, 1e3 * seconds,
                 processor_seconds());
  }
  std::size_t inputs = 0;
  std::size_t taken = 0;
  std::size_t peak = 0;
  double share = 0;
  double seconds = 0;
};

bool refused(const std::function<void()>& body, ExitCode refusal) {
  try {
    body();
    return false;
  } catch (const Error& error) {
    if (error.code() != refusal) throw;
    if (std::getenv("QUERN_FUZZ_VERBOSE") != nullptr)
      std::fprintf(stderr, "refused: %s\n", error.what());
    return true;
  }
}

}  // namespace

void guarded(std::size_t input_bytes, const std::function<void()>& body, ExitCode refusal) {
  static Totals totals;
  const std::size_t limit = kFreeBytes + 4 * input_bytes;
  const double start = processor_seconds();
  start_metering(limit);
  const bool was_refused =
      refused(body, refusal);  // what it throws is a find, which ends the process
  const std::size_t peak = stop_metering();
  const double seconds = processor_seconds() - start;
  ++totals.inputs;
  totals.taken += !was_refused;
  totals.peak = std::max(totals.peak, peak);
  totals.share = std::max(totals.share, double(peak) / double(limit));
  totals.seconds = std::max(totals.seconds, seconds);
  if (seconds > kMaxSeconds) std::fprintf(stderr, "guard: %.2f s of processor time\n", seconds);
  require(seconds <= kMaxSeconds, "an input takes at most a second");
}

void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "guard: does not hold: %s\n", what);
  std::abort();
}

void must_succeed(const char* what, const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    std::fprintf(stderr, "guard: %s\n", error.what());
    require(false, what);
  }
}

}  // namespace quern::fuzz
