// SPDX-License-Identifier: MIT
// How fast this machine multiplies and how fast it reaches memory, now.
#include "quern/autograd/kernels/parallel.h"
#include "quern/recipes/doctor.h"
#include "quern/recipes/internal/units.h"
#include "quern/recipes/probe.h"

namespace quern {
namespace {

using Status = Diagnosis::Status;

std::string per_second(double x, const char* unit) { return internal::short_text(x / 1e9) + unit; }

// The threads of this process, as before at the end.
class Threads {
 public:
  explicit Threads(int count) { set_num_threads(count); }
  ~Threads() { set_num_threads(before_); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

 private:
  int before_ = num_threads();
};

}  // namespace

std::vector<Diagnosis> diagnose_speed() {
  const int cores = available_cores();
  double one = 0, all = 0, bandwidth = 0;
  {
    const Threads threads(1);
    one = measure_product_rate();
  }
  {
    const Threads threads(cores);
    all = cores > 1 ? measure_product_rate() : one;
    bandwidth = measure_memory_bandwidth();
  }
  Diagnosis products{"products", Status::ok, per_second(all, " GFLOP/s"), ""};
  if (cores > 1) {
    const double gain = all / one;
    products.found +=
        " with " + std::to_string(cores) + " threads, " + per_second(one, " with one");
    if (gain < 0.6 * cores) {
      products.status = Status::warn;
      products.advice = "threads bring " + internal::fixed_text(gain, 1) +
                        " times the speed of one: the cores are shared with other programs, or "
                        "are two threads of one core";
    }
  }
  return {products, {"memory bandwidth", Status::ok, per_second(bandwidth, " GB/s"), ""}};
}

}  // namespace quern
