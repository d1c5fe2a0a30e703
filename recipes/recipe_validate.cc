// SPDX-License-Identifier: MIT
// What a recipe must satisfy before any work starts.
#include <string>

#include "quern/autograd/error.h"
#include "quern/data/chat_template.h"
#include "quern/layers/internal/check_range.h"
#include "quern/recipes/recipe.h"

namespace quern {
namespace {

using internal::check_range;
using internal::check_word;
using internal::refuse;
using internal::to_text;
using std::to_string;

constexpr std::int64_t kMaxSteps = 1'000'000'000;
constexpr std::int64_t kMaxSequences = 1 << 20;  // per step
constexpr std::int64_t kMaxTokens = std::int64_t{1} << 50;
constexpr std::int64_t kMaxLanes = 1 << 12;
constexpr std::int64_t kMaxThreads = 1 << 10;
constexpr double kMaxLr = 10.0;

std::string element(const std::string& list, std::size_t i) {
  return list + "[" + to_string(i) + "]";
}

void check_chat_template(const std::string& name) {
  if (name.empty() || find_chat_format(name) != nullptr) return;
  refuse("data.chat_template", chat_format_names(), "'" + name + "'",
         "left out, it is that of the training files");
}

void check_data(const Recipe& recipe) {
  const DataRecipe& d = recipe.data;
  if (d.train.empty()) throw ConfigError({.key = "data.train", .what = "names no token file"});
  for (std::size_t i = 0; i < d.train.size(); ++i) {
    const std::string key = element("data.train", i);
    if (d.train[i].path.empty()) throw ConfigError({.key = key + ".path", .what = "is empty"});
    check_range(key + ".weight", d.train[i].weight, 1e-9, 1e9);
  }
  for (std::size_t i = 0; i < d.validation.size(); ++i) {
    if (!d.validation[i].empty()) continue;
    throw ConfigError({.key = element("data.validation", i), .what = "is empty"});
  }
  check_chat_template(d.chat_template);
  for (std::size_t i = 0; i < d.questions.size(); ++i) {
    if (!d.questions[i].empty()) continue;
    throw ConfigError({.key = element("data.questions", i), .what = "is empty"});
  }
  if (!d.questions.empty() && d.tokenizer.empty()) {
    throw ConfigError({.key = "data.questions",
                       .what = "questions need data.tokenizer",
                       .hint = "name the tokenizer.json"});
  }
  const std::int64_t longest = recipe.model.max_position_embeddings;
  if (d.sequence_length < 2 || d.sequence_length > longest) {
    refuse("data.sequence_length", "2 to model.max_position_embeddings " + to_string(longest),
           to_string(d.sequence_length), "or raise model.max_position_embeddings");
  }
  const std::int64_t modules = recipe.model.num_nextn_predict_layers;
  if (d.sequence_length <= modules) {
    refuse("data.sequence_length", "more than model.num_nextn_predict_layers " + to_string(modules),
           to_string(d.sequence_length));
  }
}

void check_multistep(const OptimRecipe& o) {
  const std::size_t n = o.multistep_fractions.size();
  if (n == 0) throw ConfigError({.key = "optim.multistep_fractions", .what = "is empty"});
  if (o.multistep_factors.size() != n) {
    refuse("optim.multistep_factors", "as many as multistep_fractions, " + to_string(n),
           to_string(o.multistep_factors.size()), "give one factor for each fraction");
  }
  for (std::size_t i = 0; i < n; ++i) {
    const std::string key = element("optim.multistep_fractions", i);
    check_range(key, o.multistep_fractions[i], 0.0, 1.0);
    if (i > 0 && o.multistep_fractions[i] <= o.multistep_fractions[i - 1]) {
      refuse(key, "more than the one before, " + to_text(o.multistep_fractions[i - 1]),
             to_text(o.multistep_fractions[i]), "write them in rising order");
    }
    check_range(element("optim.multistep_factors", i), o.multistep_factors[i], 1e-9, 1.0);
  }
}

void check_optim(const Recipe& recipe) {
  const OptimRecipe& o = recipe.optim;
  if (!(o.lr > 0.0 && o.lr <= kMaxLr)) {
    refuse("optim.lr", "more than 0, at most " + to_text(kMaxLr), to_text(o.lr));
  }
  check_range("optim.min_lr_ratio", o.min_lr_ratio, 0.0, 1.0);
  check_word("optim.schedule", o.schedule, {"constant", "cosine", "wsd", "multistep"});
  const std::int64_t steps = recipe.train.steps;
  if (o.warmup_steps < 0 || o.warmup_steps > kMaxSteps || (steps > 0 && o.warmup_steps > steps)) {
    refuse("optim.warmup_steps",
           steps > 0 ? "0 to train.steps " + to_string(steps) : "0 to " + to_string(kMaxSteps),
           to_string(o.warmup_steps), "a tenth of the steps is usual");
  }
  check_range("optim.decay_fraction", o.decay_fraction, 0.0, 1.0);
  check_multistep(o);
  check_range("optim.beta1", o.beta1, 0.0, 0.999999);
  check_range("optim.beta2", o.beta2, 0.0, 0.9999999);
  check_range("optim.eps", o.eps, 1e-16, 1.0);
  check_range("optim.weight_decay", o.weight_decay, 0.0, 10.0);
  check_range("optim.max_grad_norm", o.max_grad_norm, 0.0, 1e9);
  check_word("optim.moments_dtype", o.moments_dtype, {"fp32", "bf16"});
}

void check_batch(const Recipe& recipe) {
  const TrainRecipe& t = recipe.train;
  check_range("train.micro_batch_sequences", t.micro_batch_sequences, 1, kMaxSequences);
  check_range("train.lanes", t.lanes, 1, kMaxLanes);
  check_range("train.batch_sequences", t.batch_sequences, 1, kMaxSequences);
  const std::int64_t unit = t.lanes * t.micro_batch_sequences;
  const auto check_multiple = [unit](const char* key, std::int64_t sequences) {
    if (sequences % unit == 0) return;
    refuse(key, "a multiple of lanes * micro_batch_sequences, " + to_string(unit),
           to_string(sequences), "change one of the three");
  };
  check_multiple("train.batch_sequences", t.batch_sequences);
  check_range("train.batch_sequences_start", t.batch_sequences_start, 0, t.batch_sequences);
  check_multiple("train.batch_sequences_start", t.batch_sequences_start);
  check_range("train.batch_rampup_tokens", t.batch_rampup_tokens, 0, kMaxTokens);
  if ((t.batch_sequences_start > 0) != (t.batch_rampup_tokens > 0)) {
    throw ConfigError({.key = "train.batch_rampup_tokens",
                       .what = "goes with batch_sequences_start",
                       .hint = "give both or neither"});
  }
}

void check_train(const Recipe& recipe) {
  const TrainRecipe& t = recipe.train;
  check_range("train.steps", t.steps, 0, kMaxSteps);
  check_range("train.target_minutes", t.target_minutes, 0.0, 1e6);
  if (t.steps == 0 && t.target_minutes == 0.0) {
    throw ConfigError({.key = "train.steps",
                       .what = "give steps or target_minutes",
                       .hint = "as in train { steps: 1000 }"});
  }
  check_batch(recipe);
  check_range("train.seed", t.seed, 0, INT64_MAX);
  check_range("train.threads", t.threads, 0, kMaxThreads);
  check_word("train.dtype", t.dtype, {"auto", "fp32", "bf16"});
  check_range("train.log_every", t.log_every, 0, kMaxSteps);
  check_range("train.eval_every", t.eval_every, 0, kMaxSteps);
  check_range("train.eval_max_tokens", t.eval_max_tokens, 0, kMaxTokens);
  check_range("train.checkpoint_every", t.checkpoint_every, 0, kMaxSteps);
  check_range("train.keep_checkpoints", t.keep_checkpoints, 2, 1'000'000);
  check_range("train.keep_every", t.keep_every, 0, kMaxSteps);
  if (t.on_save_error != "halt" && t.on_save_error != "warn") {
    refuse("train.on_save_error", "halt or warn", "'" + t.on_save_error + "'");
  }
  check_range("train.patience", t.patience, 0, kMaxSteps);
  if (t.patience > 0 && (t.eval_every == 0 || recipe.data.validation.empty())) {
    throw ConfigError({.key = "train.patience",
                       .what = "there are no evaluations to wait for",
                       .hint = "give train.eval_every and data.validation"});
  }
  for (std::size_t i = 0; i < t.init_adapters.size(); ++i) {
    if (!t.init_adapters[i].empty()) continue;
    throw ConfigError({.key = element("train.init_adapters", i), .what = "is empty"});
  }
  if (!t.init_adapters.empty() && t.init_from.empty()) {
    throw ConfigError({.key = "train.init_adapters",
                       .what = "adapters of no model",
                       .hint = "name the model with train.init_from"});
  }
  check_range("train.sample_every", t.sample_every, 0, kMaxSteps);
  check_range("train.sample_tokens", t.sample_tokens, 1, 1'000'000);
  if (t.sample_every > 0 && recipe.data.tokenizer.empty()) {
    throw ConfigError({.key = "train.sample_every",
                       .what = "samples need data.tokenizer",
                       .hint = "name the tokenizer.json, or set sample_every to 0"});
  }
}

void check_policy(const char* key, const std::string& policy, bool may_be_off) {
  if (policy == "skip" || policy == "rollback" || policy == "halt") return;
  if (may_be_off && policy == "off") return;
  refuse(key, may_be_off ? "off, skip, rollback or halt" : "skip, rollback or halt",
         "'" + policy + "'");
}

void check_guard(const Recipe& recipe) {
  const GuardRecipe& g = recipe.guard;
  check_policy("guard.on_bad_step", g.on_bad_step, false);
  check_range("guard.max_consecutive_skips", g.max_consecutive_skips, 1, 1'000'000);
  check_policy("guard.on_spike", g.on_spike, true);
  check_range("guard.spike_zscore", g.spike_zscore, 1.0, 1e6);
  check_range("guard.spike_window", g.spike_window, 8, 1024);
  check_range("guard.keep_batches", g.keep_batches, 0, 1'000'000);
}

void check_finetune(const Recipe& recipe) {
  const FinetuneRecipe& f = recipe.finetune;
  check_word("finetune.method", f.method, {"full", "experts", "lora"});
  for (std::size_t i = 0; i < f.frozen.size(); ++i) {
    if (!f.frozen[i].empty()) continue;
    throw ConfigError({.key = element("finetune.frozen", i), .what = "is empty"});
  }
  check_word("finetune.score", f.score, {"token", "gate"});
  check_range("finetune.threshold", f.threshold, 1e-6, 1.0);
  check_word("finetune.average", f.average, {"sample", "token"});
  check_range("finetune.score_tokens", f.score_tokens, 1, kMaxTokens);
  check_range("finetune.distill_alpha", f.distill_alpha, 0.0, 1.0);
  check_range("finetune.distill_temperature", f.distill_temperature, 0.01, 100.0);
  check_range("finetune.lora_rank", f.lora_rank, 1, 1 << 16);
  check_range("finetune.lora_alpha", f.lora_alpha, 1e-6, 1e6);
  for (std::size_t i = 0; i < f.lora_targets.size(); ++i) {
    if (!f.lora_targets[i].empty()) continue;
    throw ConfigError({.key = element("finetune.lora_targets", i), .what = "is empty"});
  }
  if (recipe.model.fp8_operands && (f.method == "experts" || !f.frozen.empty())) {
    refuse("model.fp8_operands", "false where some parameters are frozen", "true",
           "finetune.method lora and full without finetune.frozen may have it");
  }
  if (f.method == "full") return;
  if (recipe.model.num_nextn_predict_layers > 0) {
    refuse("model.num_nextn_predict_layers", "0 when finetune.method is " + f.method,
           to_string(recipe.model.num_nextn_predict_layers),
           "train.init_from takes a model without its modules, too");
  }
  if (recipe.train.init_from.empty()) {
    throw ConfigError({.key = "finetune.method",
                       .what = "'" + f.method + "' trains a part of a model that is there",
                       .hint = "name it with train.init_from"});
  }
  if (f.method == "lora" && !f.frozen.empty()) {
    throw ConfigError({.key = "finetune.frozen",
                       .what = "'lora' trains its updates alone",
                       .hint = "say with lora_targets where they are"});
  }
  if (f.method == "experts" && recipe.model.n_routed_experts == 0) {
    throw ConfigError({.key = "finetune.method",
                       .what = "'experts' of a model without routed experts",
                       .hint = "full trains any model"});
  }
}

void check_distributed(const Recipe& recipe) {
  const DistributedRecipe& d = recipe.distributed;
  check_range("distributed.ep_size", d.ep_size, 1, kMaxLanes);
  if (d.ep_size > 1 && recipe.model.fp8_operands) {
    refuse("distributed.ep_size", "1 with model.fp8_operands", to_string(d.ep_size));
  }
  if (d.ep_size > 1 &&
      (recipe.model.n_routed_experts % d.ep_size != 0 || recipe.model.n_routed_experts == 0)) {
    refuse("distributed.ep_size",
           "a divisor of model.n_routed_experts, " + to_string(recipe.model.n_routed_experts),
           to_string(d.ep_size), "1 keeps all experts on every rank");
  }
  check_range("distributed.timeout_s", d.timeout_s, 1, 86'400);
  check_word("distributed.on_straggler", d.on_straggler, {"warn", "halt"});
}

}  // namespace

void validate(const Recipe& recipe) {
  validate(recipe.model);
  check_data(recipe);
  check_train(recipe);
  check_optim(recipe);
  check_guard(recipe);
  check_finetune(recipe);
  check_distributed(recipe);
}

}  // namespace quern
