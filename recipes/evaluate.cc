// SPDX-License-Identifier: MIT
#include "quern/recipes/evaluate.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "quern/autograd/ops/loss.h"
#include "quern/data/evaluation_windows.h"
#include "quern/data/packing.h"

namespace quern {
namespace {

struct Tally {
  double nll = 0;     // nats of the predicted tokens looked at
  i64 predicted = 0;  // how many
  i64 windows = 0;    // looked at
  i64 seen = 0;       // tokens looked at
  i64 tokens = 0;     // tokens there are
  i64 bytes = 0;

  double bits(double vocab_size) const {
    const double looked_at = nll / std::log(2.0) + double(windows) * std::log2(vocab_size);
    return seen > 0 ? looked_at * double(tokens) / double(seen) : 0;
  }
};

// Of each label, in order of the batch's places.
Tensor nll_of(const Model& model, const Batch& batch, const Tensor& first_key) {
  Tape tape(false);
  const ModelOutput out = model.forward(tape, batch.tokens, first_key);
  return ops::linear_cross_entropy(tape, out.hidden, tape.parameter(model.head()),
                                   batch.labels.reshape({batch.labels.numel()}), 1)
      .nll;
}

// Windows whose tokens add up to about max_tokens, evenly spread.
std::vector<EvaluationWindow> thin(const std::vector<EvaluationWindow>& all, i64 max_tokens,
                                   i64 total) {
  if (max_tokens <= 0 || max_tokens >= total) return all;
  const i64 wanted = std::max<i64>(1, i64(all.size()) * max_tokens / total);
  std::vector<EvaluationWindow> some;
  for (i64 i = 0; i < wanted; ++i) {
    some.push_back(all[size_t(i * i64(all.size()) / wanted)]);
  }
  return some;
}

void tally_file(const Model& model, const TokenFile& file, const EvaluateOptions& options,
                std::vector<Tally>& by_source) {
  const auto all = evaluation_windows(file, options.sequence_length);
  for (const EvaluationWindow& w : all) by_source[size_t(w.source)].tokens += w.length;
  const auto windows = thin(all, options.max_tokens, file.num_tokens());
  const i64 step = std::max<i64>(1, options.micro_batch_sequences);
  for (i64 begin = 0; begin < i64(windows.size()); begin += step) {
    if (options.before_batch) options.before_batch();
    const i64 count = std::min(step, i64(windows.size()) - begin);
    const std::span<const EvaluationWindow> some(&windows[size_t(begin)], size_t(count));
    const Batch batch = evaluation_batch(file, some, options.sequence_length);
    const Tensor nll = nll_of(model, batch, {});
    for (i64 row = 0; row < count; ++row) {
      Tally& t = by_source[size_t(some[size_t(row)].source)];
      for (i64 i = 0; i < options.sequence_length; ++i) {
        t.nll += nll.data<double>()[row * options.sequence_length + i];
      }
      t.predicted += some[size_t(row)].length - 1;
      t.seen += some[size_t(row)].length;
      ++t.windows;
    }
  }
}

// The learnt tokens of the documents [first, last) of one source, packed as in training; a window
// counts for nothing where it begins, since an answer follows its question.
void tally_conversations(const Model& model, const TokenFile& file, i64 first, i64 last,
                         const EvaluateOptions& options, Tally& tally) {
  const i64 seq = options.sequence_length;
  const Packing packing = pack_documents(file, seq, first, last);
  const i64 share = options.max_tokens > 0 ? options.max_tokens / seq : packing.windows();
  const i64 wanted = std::clamp<i64>(share, 1, packing.windows());
  const i64 step = std::max<i64>(1, options.micro_batch_sequences);
  for (i64 i = file.document_offsets()[size_t(first)]; i < file.document_offsets()[size_t(last)];
       ++i) {
    tally.tokens += file.is_trained(i);
  }
  for (i64 begin = 0; begin < wanted; begin += step) {
    if (options.before_batch) options.before_batch();
    std::vector<i64> windows;
    for (i64 i = begin; i < std::min(begin + step, wanted); ++i) {
      windows.push_back(i * packing.windows() / wanted);
    }
    const Batch batch = packed_batch(file, packing, windows, seq);
    const Tensor nll = nll_of(model, batch, batch.doc_start);
    for (const double bits : nll.span<double>()) tally.nll += bits;
    for (const i32 label : batch.labels.span<i32>()) {
      tally.predicted += label != kIgnoredLabel;
      tally.seen += label != kIgnoredLabel;
    }
  }
}

void tally_conversations(const Model& model, const TokenFile& file, const EvaluateOptions& options,
                         std::vector<Tally>& by_source) {
  const auto sources = file.document_source();
  for (size_t first = 0, last = 0; first < sources.size(); first = last) {
    while (last < sources.size() && sources[last] == sources[first]) ++last;
    tally_conversations(model, file, i64(first), i64(last), options,
                        by_source[size_t(sources[first])]);
  }
}

}  // namespace

EvalMetrics evaluate(const Model& model, std::span<const std::shared_ptr<const TokenFile>> files,
                     const EvaluateOptions& options) {
  EvalMetrics metrics;
  double bits = 0, nll = 0;
  i64 bytes = 0, predicted = 0;
  const double vocab = double(model.config.vocab_size);
  for (const auto& file : files) {
    std::vector<Tally> tallies(file->sources().size());
    if (file->has_mask()) {
      tally_conversations(model, *file, options, tallies);
    } else {
      tally_file(model, *file, options, tallies);
    }
    for (size_t s = 0; s < tallies.size(); ++s) {
      Tally& t = tallies[s];
      if (t.seen == 0) continue;
      t.bytes = file->sources()[s].bytes;
      metrics.domains.push_back(
          {file->sources()[s].name, t.bits(vocab) / double(t.bytes), t.bytes, t.tokens});
      bits += t.bits(vocab);
      bytes += t.bytes;
      nll += t.nll;
      predicted += t.predicted;
    }
  }
  metrics.bits_per_byte = bytes > 0 ? bits / double(bytes) : 0;
  metrics.loss = predicted > 0 ? nll / double(predicted) : 0;
  return metrics;
}

}  // namespace quern
