// SPDX-License-Identifier: MIT
#include "bench/training.h"

#include <algorithm>
#include <cmath>

#include "bench/stopwatch.h"
#include "quern/autograd/ops/elementwise.h"
#include "quern/autograd/ops/loss.h"
#include "quern/autograd/random.h"
#include "quern/optim/grad_clip.h"

namespace quern::bench {
namespace {

std::vector<Parameter*> parameters_of(Model& model) {
  std::vector<Parameter*> all;
  model.visit([&](Parameter& p) { all.push_back(&p); });
  return all;
}

Batch random_batch(const TrainingOptions& o, i64 vocab, std::uint64_t number) {
  const i64 seq = o.sequence_length;
  Batch batch;
  batch.tokens = Tensor::empty({o.batch_sequences, seq}, DType::i32);
  batch.labels = Tensor::empty({o.batch_sequences, seq}, DType::i32);
  const Random random(o.seed, "bench/batch " + std::to_string(number));
  const auto token = [&](i64 s, i64 t) {
    return i32(random.below(std::uint64_t(s * (seq + 1) + t), std::uint64_t(vocab)));
  };
  for (i64 s = 0; s < o.batch_sequences; ++s) {
    for (i64 t = 0; t < seq; ++t) {
      batch.tokens.data<i32>()[s * seq + t] = token(s, t);
      batch.labels.data<i32>()[s * seq + t] = token(s, t + 1);
    }
  }
  return batch;
}

}  // namespace

Training::Training(const ModelConfig& config, const TrainingOptions& options)
    : options_(options),
      model_(config, options.dtype),
      parameters_(parameters_of(model_)),
      optimizer_(AdamWOptions{}, parameters_, [](const Parameter&) { return true; }) {
  model_.initialise(options.seed);
  for (std::uint64_t i = 0; i < 4; ++i) {
    batches_.push_back(random_batch(options, config.vocab_size, i));
  }
}

StepTimes Training::step() {
  const Batch& batch = batches_[steps_++ % batches_.size()];
  StepTimes times;
  load_.clear();
  for (Parameter* p : parameters_) p->clear_grad();
  for (i64 first = 0; first < options_.batch_sequences; first += options_.micro_batch_sequences) {
    run_micro_batch(batch, first, times);
  }
  Stopwatch clock;
  const double norm = global_norm(parameters_);
  if (!std::isfinite(times.loss) || !std::isfinite(norm)) {
    throw NumericalError({.key = "step " + std::to_string(steps_), .what = "not finite"});
  }
  optimizer_.step(3e-4, clip_scale(norm, 1));
  times.optimizer = clock.lap();
  max_load_ = 0;
  for (const auto& layer : load_) max_load_ = std::max(max_load_, *std::ranges::max_element(layer));
  return times;
}

void Training::run_micro_batch(const Batch& batch, i64 first, StepTimes& times) {
  const i64 end = first + options_.micro_batch_sequences;
  const Tensor labels = batch.labels.rows(first, end);
  Stopwatch clock;
  Tape tape;
  const ModelOutput out = model_.forward(tape, batch.tokens.rows(first, end));
  const Var nll =
      ops::linear_cross_entropy(tape, out.hidden, tape.parameter(model_.head()),
                                labels.reshape({labels.numel()}), 1.0 / double(tokens_per_step()))
          .loss;
  const double share = double(options_.micro_batch_sequences) / double(options_.batch_sequences);
  const Var loss = ops::add(tape, nll, ops::scale(tape, out.aux_loss, share));
  times.forward += clock.lap();
  tape.backward(loss);
  times.backward += clock.lap();
  times.loss += nll.item();
  load_.resize(out.router.size());
  for (size_t layer = 0; layer < out.router.size(); ++layer) {
    const std::vector<i64>& load = out.router[layer].load;
    load_[layer].resize(load.size());
    for (size_t e = 0; e < load.size(); ++e) load_[layer][e] += load[e];
  }
}

}  // namespace quern::bench
