// SPDX-License-Identifier: MIT
#include "quern/recipes/distillation.h"

#include "quern/autograd/error.h"
#include "quern/autograd/ops/elementwise.h"
#include "quern/recipes/checkpoint.h"

namespace quern {
namespace {

constexpr char kKey[] = "finetune.distill_from";

ModelConfig checked(const ModelFile& file, const Recipe& recipe,
                    const std::string& tokenizer_sha256) {
  const CheckpointInfo info = read_checkpoint_info(file);
  const ModelConfig& theirs = info.model;
  if (info.context.tokenizer_sha256 != tokenizer_sha256) {
    throw ConfigError({.file = file.path.string(),
                       .key = kKey,
                       .what = "a model of another tokenizer than the token files'",
                       .hint = "logits can be learnt only token by token"});
  }
  if (theirs.vocab_size != recipe.model.vocab_size) {
    throw ConfigError({.file = file.path.string(),
                       .key = kKey,
                       .what = "a model of another vocabulary",
                       .expected = "model.vocab_size " + std::to_string(recipe.model.vocab_size),
                       .actual = std::to_string(theirs.vocab_size),
                       .hint = "`quern inspect` shows the model of this checkpoint"});
  }
  if (theirs.max_position_embeddings < recipe.data.sequence_length) {
    throw ConfigError(
        {.file = file.path.string(),
         .key = kKey,
         .what = "a model of shorter texts",
         .expected = "at least data.sequence_length " + std::to_string(recipe.data.sequence_length),
         .actual = std::to_string(theirs.max_position_embeddings),
         .hint = "make data.sequence_length smaller"});
  }
  return theirs;
}

}  // namespace

ModelConfig teacher_config(const Recipe& recipe) {
  return read_checkpoint_info(find_model_file(recipe.finetune.distill_from)).model;
}

Teacher::Teacher(const Recipe& recipe, DType dtype, const std::string& tokenizer_sha256)
    : alpha_(recipe.finetune.distill_alpha),
      temperature_(recipe.finetune.distill_temperature),
      model_(checked(find_model_file(recipe.finetune.distill_from), recipe, tokenizer_sha256),
             dtype) {
  model_.train_only([](const Parameter&) { return false; });
  load_weights(find_model_file(recipe.finetune.distill_from), model_);
}

Var Teacher::loss(Tape& tape, const Var& nll, const ModelOutput& out, const Var& head,
                  const Tensor& ids, const Tensor& first_key, const Tensor& labels,
                  double scale) const {
  Tape silent(false);
  const ModelOutput theirs = model_.forward(silent, ids, first_key);
  const Var kl = ops::linear_distillation(tape, out.hidden, head,
                                          {theirs.hidden.value(), model_.head().operand()}, labels,
                                          temperature_, scale);
  return ops::add(tape, ops::scale(tape, nll, 1 - alpha_), ops::scale(tape, kl, alpha_));
}

}  // namespace quern
