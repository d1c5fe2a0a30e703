// SPDX-License-Identifier: MIT
// The larger model that a run learns from beside its text.
#pragma once

#include "quern/autograd/ops/distillation.h"
#include "quern/layers/model.h"
#include "quern/recipes/recipe.h"

namespace quern {

// The shape of finetune.distill_from. Throws ConfigError, CheckpointError as find_model_file()
// does.
ModelConfig teacher_config(const Recipe& recipe);

class Teacher {
 public:
  // The checkpoint of finetune.distill_from, in the run's type. Throws ConfigError where it has
  // another tokenizer than the token files, another vocabulary, or shorter texts.
  Teacher(const Recipe& recipe, DType dtype, const std::string& tokenizer_sha256);

  // (1 - alpha) * nll + alpha * T^2 * scale * KL(theirs || ours), of one micro-batch; `out` and
  // `head` are the pupil's.
  Var loss(Tape& tape, const Var& nll, const ModelOutput& out, const Var& head, const Tensor& ids,
           const Tensor& first_key, const Tensor& labels, double scale) const;

 private:
  double alpha_, temperature_;
  Model model_;
};

}  // namespace quern
