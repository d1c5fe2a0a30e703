// SPDX-License-Identifier: MIT
// Runs the model of one file of golden data in both precisions and compares every quantity.
#pragma once

#include "tests/golden/golden_file.h"
#include "tests/golden/layout.h"

namespace quern::golden {

// One line per precision and quantity. What Quern cannot run, and what is missing in the file, is
// a failure line.
void check(const GoldenFile& golden, Report& report, const Layout& layout = Layout());

// The two kinds of files: one forward and backward pass, and a training run with AdamW.
void check_pass(const GoldenFile& golden, const ModelConfig& config, DType dtype, Report& report,
                const Layout& layout);
void check_training(const GoldenFile& golden, const ModelConfig& config, DType dtype,
                    Report& report, const Layout& layout);

// Cross entropy (mean over counted positions, labels shifted by one), and what backward starts
// from: that plus the auxiliary loss with coefficient one.
struct Losses {
  ModelOutput out;
  Var cross_entropy, total;
};
Losses losses(Tape& tape, const Model& model, const Tensor& ids, const Tensor& labels, bool trace);

// Tolerances of the golden data's README for a float32 implementation.
inline constexpr Bound kValueBound{1e-5, Measure::of_largest};  // logits, hidden states
inline constexpr Bound kLossBound{5e-6, Measure::absolute};
inline constexpr Bound kAuxLossBound{1e-5, Measure::each_element};
inline constexpr Bound kGradientBound{5e-5, Measure::of_largest};
inline constexpr Bound kNormBound{1e-5, Measure::each_element};
inline constexpr Bound kStepLossBound{1e-5, Measure::absolute};
inline constexpr Bound kFinalWeightBound{3e-5, Measure::absolute};
inline constexpr double kUpdateTolerance = 1e-3;  // 2-norm of the error over that of the update

}  // namespace quern::golden
