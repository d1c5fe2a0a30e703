// SPDX-License-Identifier: MIT
// From what a step reports to what the log says of it.
#pragma once

#include "quern/recipes/metrics.h"
#include "quern/recipes/trainer.h"

namespace quern {

// All but the figures of the whole run and of the clock around the step.
StepMetrics metrics_of(const StepReport& report, const Progress& progress);

}  // namespace quern
