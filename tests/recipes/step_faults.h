// SPDX-License-Identifier: MIT
// Faults for tests of the guard, put into one lane of one batch.
#pragma once

#include "quern/recipes/trainer.h"

namespace quern::testing {

enum class FaultPlace { loss, gradient, activation, router };

// `value` becomes the loss, or one element of the gradient of an attention matrix of the first
// layer, of the experts' activations in the second, or of its router's scores; in every
// micro-batch of the lane, each time the step is computed.
inline StepHooks fault_at(i64 first_sample, i64 lane, FaultPlace place, double value) {
  StepHooks hooks;
  hooks.watch = [=](i64 sample, i64 of_lane) {
    TapeWatch watch;
    if (sample != first_sample || of_lane != lane) return watch;
    if (place == FaultPlace::gradient) {
      watch.gradient = [=](const char*, const std::string&, const Parameter* p, const Tensor& g) {
        if (p == nullptr || p->name != "model.layers.0.self_attn.o_proj.weight") return;
        g.data<float>()[5] = float(value);
      };
      return watch;
    }
    watch.output = [=](const char* op, const std::string& module, const Tensor& y) {
      const std::string name = op;
      const bool here = place == FaultPlace::loss ? name == "linear_cross_entropy"
                        : place == FaultPlace::activation
                            ? module == "model.layers.1.mlp.experts.down" && name == "expert_ffn"
                            : module == "model.layers.1.mlp" && name == "softmax";
      if (here) y.data<float>()[y.numel() / 2] = float(value);
    };
    return watch;
  };
  return hooks;
}

}  // namespace quern::testing
