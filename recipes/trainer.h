// SPDX-License-Identifier: MIT
// One training step, and the state it advances.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "quern/data/sampler.h"
#include "quern/distributed/grad_sync.h"
#include "quern/distributed/groups.h"
#include "quern/layers/model.h"
#include "quern/optim/adamw.h"
#include "quern/optim/batch_schedule.h"
#include "quern/optim/lanes.h"
#include "quern/optim/lr_schedule.h"
#include "quern/recipes/checkpoint.h"
#include "quern/recipes/distillation.h"
#include "quern/recipes/fault_finder.h"
#include "quern/recipes/guard.h"
#include "quern/recipes/recipe.h"
#include "quern/recipes/state_layout.h"

namespace quern {

// What `auto` means on this machine is decided here; other names are themselves.
std::string resolved_dtype(const TrainRecipe& train);

// A step that the guard refused. Weights, moments and progress are those of the step before.
struct BadStep {
  i64 step = 0;          // the one that was tried, from 1
  i64 first_sample = 0;  // of its batch
  i64 sequences = 0;
  BadStepAction action = BadStepAction::skip;
  i64 in_a_row = 0;   // skips or rollbacks, this one included
  std::string what;   // "loss is not finite"
  std::string place;  // the first bad tensor and its layer; empty for spikes
};

// Sees the operations of a step's lanes: for tests, which put faults in. `first_sample` tells
// batches apart, since a step may be tried with several.
struct StepHooks {
  std::function<TapeWatch(i64 first_sample, i64 lane)> watch;
};

struct StepReport {
  double loss = 0;        // nats per counted token
  double aux_loss = 0;    // mean over the step's sequences, summed over layers
  double nextn_loss = 0;  // of multi-token prediction, without its weight
  double grad_norm = 0;   // before clipping
  double lr = 0;
  i64 tokens = 0;
  double forward_backward_s = 0, optimizer_s = 0;  // of this step
  std::vector<std::vector<i64>> expert_load;       // [MoE layers][experts], tokens sent
  std::vector<RouterFigures> router;               // [MoE layers], means over the step
  std::vector<double> rank_seconds;  // of forward and backward on each rank, without waiting
  std::optional<BadStep> bad;        // set: nothing was learnt from this batch
};

// What a micro-batch adds to the report of its step.
struct MicroBatchReport {
  double loss = 0, nextn_loss = 0;  // to be summed
  double aux_loss = 0;              // to be weighed by the share
  double share = 0;                 // of the step's sequences
  std::vector<RouterFigures> router;
  std::vector<std::vector<i64>> expert_load;
};

// A step is cut into lanes and those into micro-batches: gradients are summed within a lane in
// index order and over lanes by a fixed tree. Of several ranks each computes its run of the lanes;
// they take the same steps with the same reports, and with powers of two the same bits as one.
class Trainer {
 public:
  // With random weights. `recipe.train.steps` must be known. Throws ConfigError where the ranks do
  // not divide the lanes.
  Trainer(const Recipe& recipe, std::shared_ptr<const Sampler> sampler, StepHooks hooks = {},
          const ParallelGroups& groups = {});

  // The batch of a step after so many sequences that were passed over, a function of these two
  // alone; may run on another thread.
  Batch batch_of(i64 step, i64 passed_over = 0) const;
  // Sequences that skips and rollbacks have passed over so far.
  i64 passed_over() const { return next_sample_ - batch_schedule_.first_sample(progress_.step); }

  // Advances by one step; or refuses it, and then the report says why and what is to be done. After
  // a skip the next batch is that of the same step, with passed_over() as it is now.
  StepReport step(const Batch& batch);

  Model& model() { return model_; }
  std::span<Parameter* const> trained() const { return parameters_; }
  const AdamW& optimizer() const { return optimizer_; }
  const Progress& progress() const { return progress_; }
  const Recipe& recipe() const { return recipe_; }
  const StateLayout& layout() const { return layout_; }
  const BatchSchedule& batch_schedule() const { return batch_schedule_; }

  // Starts from the weights of another run, as load_initial_weights() takes them.
  void start_from(const ModelFile& weights);
  // Goes on from a checkpoint of this run.
  void restore(const std::filesystem::path& checkpoint);
  // What a refused step with BadStepAction::rollback asks for: back to a checkpoint of this run,
  // and over the data from there to the end of the refused batch.
  void roll_back(const std::filesystem::path& checkpoint, const BadStep& bad);

 private:
  // Fills Parameter::grad, and the sums of the report.
  void compute_gradients(const Batch& batch, StepReport& report, FaultFinder* finder);
  void sum_over_ranks(GradientSums& begun);
  double norm_over_ranks() const;
  // The last one of a step completes gradients.
  MicroBatchReport run_micro_batch(const Batch& batch, i64 first, i64 count, i64 counted,
                                   const TapeWatch* watch, TrainingStep& step,
                                   GradientSums* completes);
  std::vector<ops::ChoiceCounts> count_choices(const Batch& batch, TrainingStep step) const;
  BadStep refuse(const Batch& batch, const Symptom& symptom);
  std::string find_fault(const Batch& batch);

  Recipe recipe_;
  std::shared_ptr<const Sampler> sampler_;
  ParallelGroups groups_;
  Model model_;
  std::vector<Parameter*> parameters_;      // that are trained
  std::vector<Parameter*> with_gradients_;  // these and Model::for_other_ranks()
  std::vector<Parameter*> everywhere_;      // of those, what is summed over all ranks, and
  std::vector<Parameter*> spread_;          // over the ranks that have the same experts
  StateLayout layout_;
  AdamW optimizer_;  // of the parameters whose moments are on this rank
  LrSchedule lr_schedule_;
  BatchSchedule batch_schedule_;
  LaneTree lanes_;
  NumericalGuard guard_;
  StepHooks hooks_;
  std::optional<const Teacher> teacher_;
  Progress progress_;    // after the last good step
  i64 next_sample_ = 0;  // of the batch to come: progress_.next_sample, or later after skips
};

// The weights of another run, with adapters. Throws ConfigError when they belong to another
// tokenizer or do not fit the model.
void load_initial_weights(const ModelFile& weights, std::span<const std::string> adapters,
                          const std::string& tokenizer_sha256, Model& model);

// The token files of a recipe as a sampler; throws DataError where they do not fit the recipe.
std::shared_ptr<const Sampler> make_sampler(const Recipe& recipe);

// The recipe's schedule as the optimizer's struct.
LrSchedule lr_schedule_of(const Recipe& recipe);

}  // namespace quern
