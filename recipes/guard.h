// SPDX-License-Identifier: MIT
// The numerical guard: whether a step's loss and gradients may reach the optimizer, and what to do
// where they may not. What a policy means stands at GuardRecipe.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "quern/autograd/kernels/types.h"
#include "quern/recipes/recipe.h"

namespace quern {

enum class BadStepAction { skip, rollback, halt };

// Why a step is refused.
struct Symptom {
  bool spike = false;  // finite, but far above the recent steps
  std::string what;    // "loss is not finite"
};

// Decides from the steps it was told of and nothing else, so that a resumed run decides as the
// uninterrupted one.
class NumericalGuard {
 public:
  explicit NumericalGuard(const GuardRecipe& recipe) : recipe_(recipe) {}

  // What is wrong with a step of these numbers; nothing where all is well.
  std::optional<Symptom> examine(double loss, double aux_loss, double grad_norm) const;

  // Counts a refused step (the one being tried, from 1) and says what to do with it: what the
  // recipe says, or halt when that was done max_consecutive_skips times in a row.
  BadStepAction refuse(const Symptom& symptom, i64 step);
  // Counts a good step; refused ones never enter the window of recent steps.
  void accept(i64 step, double loss, double grad_norm);

  // Skips or rollbacks in a row, the one decided last included.
  i64 in_a_row() const { return skips_ > 0 ? skips_ : rollbacks_; }

  // What a checkpoint keeps: how things stood after the last good step. Skips since then are not
  // part of it, since a run that goes on from there meets them again. Empty: as at the start.
  std::string state() const;
  // Throws CheckpointError where the text is none of state().
  void set_state(std::string_view text);
  // After a rollback, set_state() to that of the checkpoint: but how often there was one counts on.
  void set_state_after_rollback(std::string_view text);

 private:
  std::optional<std::string> spike_in(const char* name, const std::vector<double>& window,
                                      double value, double floor) const;

  GuardRecipe recipe_;
  std::vector<double> losses_,
      log_norms_;        // of good steps, oldest first; while on_spike is not off
  i64 skips_ = 0;        // since the last good step
  i64 rollbacks_ = 0;    // since a run last got past failed_step_
  i64 failed_step_ = 0;  // the furthest step that was answered with a rollback
};

}  // namespace quern
