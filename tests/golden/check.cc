// SPDX-License-Identifier: MIT
#include "tests/golden/check.h"

#include <exception>

namespace quern::golden {

void check(const GoldenFile& golden, Report& report, const Layout& layout) {
  for (const DType dtype : {DType::f32, DType::f64}) {
    report.set_precision(name_of(dtype));
    try {
      const ModelConfig config = golden.config();
      if (golden.is_training_run()) {
        check_training(golden, config, dtype, report, layout);
      } else {
        check_pass(golden, config, dtype, report, layout);
      }
    } catch (const ConfigError& e) {
      report.failure("config", e.what());
    } catch (const std::exception& e) {
      report.failure("run", e.what());
    }
  }
}

}  // namespace quern::golden
