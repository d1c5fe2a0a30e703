// SPDX-License-Identifier: MIT
// Names the first number of a step that is not finite: the operation or the gradient, and the
// layer. A good step never pays for this; a refused one is computed once more under its eyes.
#pragma once

#include <span>
#include <string>

#include "quern/autograd/tape.h"

namespace quern {

// "NaN at [3, 5] of f32 [64, 16]" for the first element that is not finite; empty if all are.
std::string first_bad_element(const Tensor& tensor);

class FaultFinder {
 public:
  // The parameters may be slices of the stacks that operations use; the slice is what is named.
  explicit FaultFinder(std::span<Parameter* const> parameters) : parameters_(parameters) {}

  // A watch that lets `first` see each tensor and then looks itself. Borrows both.
  TapeWatch after(const TapeWatch& first);

  // Looks at the weights themselves, and at gradients that no tape sees: sums over lanes.
  void look_at_weights();
  void look_at_sums();

  // "model.layers.1.mlp: output of op "swiglu" is not finite: NaN at ..."; empty: nothing yet.
  const std::string& fault() const { return fault_; }

 private:
  void look_at_gradient(const char* op, const std::string& module, const Parameter* parameter,
                        const Tensor& gradient);

  std::span<Parameter* const> parameters_;
  std::string fault_;
};

}  // namespace quern
