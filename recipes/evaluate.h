// SPDX-License-Identifier: MIT
// Bits per byte of token files, and the loss by position.
#pragma once

#include <functional>
#include <memory>
#include <span>

#include "quern/data/token_file.h"
#include "quern/layers/model.h"
#include "quern/recipes/metrics.h"

namespace quern {

struct EvaluateOptions {
  i64 sequence_length = 256;
  i64 micro_batch_sequences = 8;
  i64 max_tokens = 0;                  // of each file, spread evenly over it; 0: all
  std::function<void()> before_batch;  // called before each batch; what it throws ends it
  // They share the batches, and each gets the figures that one alone would. A call of all.
  Communicator ranks;
};

// -sum log2 p over every token of the text, in windows of the training length without overlap, a
// window's first token counted as log2(vocab_size) bits, over the bytes of the text. With
// max_tokens the windows looked at stand for all of their source. One domain for each source name.
// Of conversations only what is learnt counts, given what is said before it: -sum log2 p of the
// answers and their ends over the bytes of the answers.
// Standard errors take windows for independent draws from their source, and are NaN where there is
// one window only. Neighbours are not quite independent, so the true ones are somewhat larger.
EvalMetrics evaluate(const Model& model, std::span<const std::shared_ptr<const TokenFile>> files,
                     const EvaluateOptions& options);

}  // namespace quern
