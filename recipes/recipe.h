// SPDX-License-Identifier: MIT
// A run as plain structs: what to build, on which text, how to optimise, when to report. Read from
// a text-format file (schema: recipe.proto), overridden field by field, checked once.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "quern/layers/config.h"

namespace quern {

// One token file and its share of the mixture, relative to the other weights.
struct TrainSource {
  std::string path;
  double weight = 1.0;

  bool operator==(const TrainSource&) const = default;
};

struct DataRecipe {
  std::vector<TrainSource> train;
  std::vector<std::string> validation;  // token files, evaluated one by one
  std::string tokenizer;                // tokenizer.json, needed for samples
  std::int64_t sequence_length = 256;
  // No attention from one document to the one before it. Conversations never see each other.
  bool mask_across_documents = false;
  // How conversations are written, see ChatTemplate; empty: as in the training files. The resolved
  // recipe says it, for `quern generate --chat`.
  std::string chat_template;
  // Multiple-choice questions, as `quern evaluate` takes them, answered before and after training
  // from train.init_from. Where the first training file holds conversations they are asked as such.
  std::vector<std::string> questions;

  bool operator==(const DataRecipe&) const = default;
};

struct OptimRecipe {
  double lr = 1e-3;           // the highest rate, after warm-up
  double min_lr_ratio = 0.1;  // where cosine and wsd end, as a part of lr
  std::int64_t warmup_steps = 100;
  std::string schedule = "cosine";  // constant, cosine, wsd or multistep
  double decay_fraction = 0.2;      // wsd: the last part of the steps, during which lr falls
  // multistep: lr is multiplied by each factor once that part of the steps is done. The defaults
  // are those of DeepSeek-V2 (arXiv:2405.04434, section 3.1.2).
  std::vector<double> multistep_fractions = {0.8, 0.9};
  std::vector<double> multistep_factors = {0.316, 0.316};

  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.1;
  // Which tensors weight_decay shrinks besides the matrices of attention and FFNs. Token tables
  // would lose rare tokens, which get decay without gradient; gains belong near 1. Decay of the
  // gate keeps routing probabilities from growing extreme.
  bool decay_embeddings = false;  // embed_tokens, and lm_head when tied to it
  bool decay_norms = false;
  bool decay_gate = true;
  double max_grad_norm = 1.0;  // 0: no clipping
  // fp32, or bf16: half of the memory, rounded at random; see AdamWOptions.
  std::string moments_dtype = "fp32";

  bool operator==(const OptimRecipe&) const = default;
};

struct TrainRecipe {
  std::int64_t steps = 0;       // 0: found by a probe from target_minutes, then written here
  double target_minutes = 0.0;  // used only while steps is 0
  std::int64_t batch_sequences = 16;
  // When above 0 the batch grows linearly, in tokens seen, from batch_sequences_start to
  // batch_sequences, in multiples of lanes * micro_batch_sequences.
  std::int64_t batch_sequences_start = 0;
  std::int64_t batch_rampup_tokens = 0;
  std::int64_t micro_batch_sequences = 8;  // sequences whose activations live at a time
  // Groups of sequences, whose gradients are summed by a fixed tree. Ranks share them evenly: 1
  // becomes the number of ranks that a run begins with.
  std::int64_t lanes = 1;
  std::int64_t seed = 1;
  std::int64_t threads = 0;  // 0: one for each core
  bool recompute = false;    // keep fewer activations, compute them again in backward
  // fp32, or bf16: mixed precision, see Model. auto: bf16 where the processor multiplies it faster,
  // else fp32; what it became is written into the run.
  std::string dtype = "auto";

  // How often, in steps; 0: never.
  std::int64_t log_every = 10;
  std::int64_t eval_every = 200;
  std::int64_t eval_max_tokens = 0;  // of each validation file; 0: all
  std::int64_t checkpoint_every = 500;
  // Which checkpoints stay: the newest, at least two; those of steps that are multiples of
  // keep_every (0: none); the one whose step had the best figure of the
  // first validation file.
  std::int64_t keep_checkpoints = 2;
  std::int64_t keep_every = 0;
  bool keep_best = false;
  // What a checkpoint that cannot be written means: "halt" ends the run with code 3, "warn" trains
  // on and tries again at the next one. The last one of a run must be written.
  std::string on_save_error = "halt";
  // Checkpoints, all but the last, are written from a copy of the state while training goes on. For
  // as long the copy takes the memory of weights and moments once more.
  bool background_save = false;
  std::int64_t sample_every = 0;
  std::vector<std::string> sample_prompts;
  std::int64_t sample_tokens = 100;
  std::string init_from;  // a checkpoint whose weights the run starts from; empty: random
  std::vector<std::string> init_adapters;  // folders of `quern export-adapter`, merged into these
  // Above 0: so many evaluations (of eval_every) in a row without a better one of the first
  // validation file end the run, which then is its best checkpoint.
  std::int64_t patience = 0;

  bool operator==(const TrainRecipe&) const = default;
};

// What keeps bad numbers out of the weights. Loss and gradient norm of every step are looked at
// before the optimizer touches anything; a step that is refused leaves no trace in weights or
// moments, and counts for nothing: not in lr, not in the batch size, not in train.steps.
struct GuardRecipe {
  // Where the loss or a gradient is not finite:
  //   skip      its batch is passed over, as if the data did not have it
  //   rollback  back to the last checkpoint, and over all data from there to this batch
  //   halt      exit code 4, with the last good step saved
  std::string on_bad_step = "skip";
  std::int64_t max_consecutive_skips = 5;  // skips, or rollbacks, in a row; one more halts
  // The same for a step whose loss or gradient norm is far above the recent ones; off: any finite
  // number is good. It is off because max_grad_norm already bounds what one batch can do.
  std::string on_spike = "off";
  // Far above: more than spike_zscore robust standard deviations (1.4826 times the median distance
  // from the median) above the median of the last spike_window good steps; before there are so
  // many, nothing is. Norms are compared by their logarithms, since they scatter by factors. The
  // deviation counts as at least 1 % of the loss, and 10 % of the norm.
  double spike_zscore = 10.0;
  std::int64_t spike_window = 128;
  std::int64_t keep_batches = 20;  // of refused steps, the newest, in RUN/bad_steps

  bool operator==(const GuardRecipe&) const = default;
};

// Which weights are trained. Other methods than full start from train.init_from.
struct FinetuneRecipe {
  //   full     all
  //   experts  in each layer the routed experts that matter most to the text, and nothing else
  //            (ESFT, arXiv:2407.01906)
  //   lora     updates of low rank beside the matrices of lora_targets (LoRA, arXiv:2106.09685)
  std::string method = "full";
  // Parameters by name, that are not trained whatever the method says; * is any text:
  // "*.mlp.gate.weight". A frozen parameter costs no gradient, no moments and no time.
  std::vector<std::string> frozen;
  // Whether the model's auxiliary losses count in methods other than full, whose routers are
  // frozen.
  bool balance_losses = false;
  // experts: what is selected, as `quern select-experts` writes it. Empty: the run makes its own at
  // the start, of the first training file, from the four fields below.
  std::string experts_file;
  std::string score = "token";     // or gate: the share of choices, or the mean weight
  double threshold = 0.2;          // the scores of the selected add up to so much
  std::string average = "sample";  // over each document and then these; or token: over all tokens
  std::int64_t score_tokens = 131072;
  // lora: W + lora_alpha / lora_rank * B A. Targets are names of modules, "q_proj", or patterns of
  // parameters, "model.layers.1.*"; empty: every matrix of attention and feed-forward networks, the
  // routed experts' among them.
  std::int64_t lora_rank = 8;
  double lora_alpha = 16;
  std::vector<std::string> lora_targets;
  // Distillation (Hinton et al., arXiv:1503.02531), with any method: a checkpoint of the same
  // tokenizer, whose logits are learnt beside the text. The loss is
  //   (1 - distill_alpha) * cross entropy + distill_alpha * T^2 * KL(theirs || ours)
  // with both softmaxes at temperature T = distill_temperature, over the same tokens. Of another
  // run it is the newest checkpoint when this one begins.
  std::string distill_from;
  double distill_alpha = 0.5;
  double distill_temperature = 2.0;

  bool operator==(const FinetuneRecipe&) const = default;
};

// How many ranks share the work. Their number is the launcher's: `quern train --ranks`, mpirun or
// srun. None of it changes what is computed, with powers of two not even the last bit.
struct DistributedRecipe {
  // Ranks over which the routed experts of a layer are spread. 1: every rank holds all.
  std::int64_t ep_size = 1;
  // The moments of the optimizer are spread over the ranks (ZeRO, arXiv:1910.02054, stage 1).
  bool shard_optimizer = false;
  // A rank that has said nothing for so long is taken for dead, and the job ends. Code 75.
  std::int64_t timeout_s = 60;
  // What a rank that needs more than 1.5 times the median time of a step, for 20 steps, means:
  // "warn", or "halt".
  std::string on_straggler = "warn";

  bool operator==(const DistributedRecipe&) const = default;
};

struct Recipe {
  ModelConfig model;
  DataRecipe data;
  OptimRecipe optim;
  TrainRecipe train;
  GuardRecipe guard;
  FinetuneRecipe finetune;
  DistributedRecipe distributed;

  bool operator==(const Recipe&) const = default;
};

// Reads, overrides and validates. An override is `path=value`: "optim.lr=3e-4",
// "data.train[0].path=a.h5"; a repeated field is replaced as a whole, "train.sample_prompts=['a']".
// Throws ConfigError, pointing to file:line:column or to the override.
Recipe load_recipe(const std::string& path, std::span<const std::string> overrides = {});
Recipe parse_recipe(const std::string& text, const std::string& file_name,
                    std::span<const std::string> overrides = {});

// The recipe with every field written; parse_recipe gives the same recipe back.
std::string to_text(const Recipe& recipe);

// Throws ConfigError, whose key is the field's path, at the first value that cannot be used.
void validate(const Recipe& recipe);

}  // namespace quern
