// SPDX-License-Identifier: MIT
// One training step, and the state it advances.
#pragma once

#include <memory>
#include <vector>

#include "quern/data/sampler.h"
#include "quern/layers/model.h"
#include "quern/optim/adamw.h"
#include "quern/optim/batch_schedule.h"
#include "quern/optim/lanes.h"
#include "quern/optim/lr_schedule.h"
#include "quern/recipes/checkpoint.h"
#include "quern/recipes/recipe.h"

namespace quern {

struct StepReport {
  double loss = 0;       // nats per counted token
  double aux_loss = 0;   // mean over the step's sequences, summed over layers
  double grad_norm = 0;  // before clipping
  double lr = 0;
  i64 tokens = 0;
  double forward_backward_s = 0, optimizer_s = 0;  // of this step
  std::vector<std::vector<i64>> expert_load;  // [MoE layers][experts], tokens sent
};

// A step is cut into lanes and those into micro-batches: gradients are summed within a lane in
// index order and over lanes by a fixed tree.
class Trainer {
 public:
  // With random weights. `recipe.train.steps` must be known.
  Trainer(const Recipe& recipe, std::shared_ptr<const Sampler> sampler);

  // The batch of a step, a function of the step alone; may run on another thread.
  Batch batch_of(i64 step) const;

  // Advances by one step. Throws NumericalError, with the state untouched, when the loss or the
  // gradient norm is not finite.
  StepReport step(const Batch& batch);

  Model& model() { return model_; }
  const AdamW& optimizer() const { return optimizer_; }
  const Progress& progress() const { return progress_; }
  const Recipe& recipe() const { return recipe_; }
  const BatchSchedule& batch_schedule() const { return batch_schedule_; }

  // Starts from the weights of another run. Throws ConfigError when they belong to another
  // tokenizer or do not fit the model, CheckpointError when they are damaged.
  void start_from(const std::filesystem::path& checkpoint);
  // Goes on from a checkpoint of this run.
  void restore(const std::filesystem::path& checkpoint);

 private:
  void run_micro_batch(const Batch& batch, i64 first, i64 count, i64 counted, StepReport& report);

  Recipe recipe_;
  std::shared_ptr<const Sampler> sampler_;
  Model model_;
  std::vector<Parameter*> parameters_;
  AdamW optimizer_;
  LrSchedule lr_schedule_;
  BatchSchedule batch_schedule_;
  LaneTree lanes_;
  Progress progress_;
};

// The token files of a recipe as a sampler; throws DataError where they do not fit the recipe.
std::shared_ptr<const Sampler> make_sampler(const Recipe& recipe);

// The recipe's schedule as the optimizer's struct.
LrSchedule lr_schedule_of(const Recipe& recipe);

}  // namespace quern
