// SPDX-License-Identifier: MIT
#include "quern/recipes/evaluate.h"

#include <algorithm>
#include <cmath>

#include "quern/autograd/ops/loss.h"
#include "quern/data/evaluation_windows.h"
#include "quern/data/packing.h"
#include "quern/recipes/internal/spread.h"

namespace quern {
namespace {

using internal::Spread;

struct Tally {
  double nll = 0;     // nats of the predicted tokens looked at
  i64 predicted = 0;  // how many
  i64 firsts = 0;     // tokens looked at that nothing predicts
  i64 seen = 0;       // tokens looked at
  i64 tokens = 0;     // tokens there are
  i64 bytes = 0;
  // Of windows: how many, and sums of squares and products of a window's bits and tokens.
  double windows = 0, bits_bits = 0, bits_tokens = 0, tokens_tokens = 0;

  double bits_seen(double vocab_size) const {
    return nll / std::log(2.0) + double(firsts) * std::log2(vocab_size);
  }
  double bits(double vocab_size) const {
    return seen > 0 ? bits_seen(vocab_size) * double(tokens) / double(seen) : 0;
  }
  void add_window(double window_nll, i64 window_predicted, i64 window_firsts, double vocab_size) {
    nll += window_nll;
    predicted += window_predicted;
    firsts += window_firsts;
    seen += window_predicted + window_firsts;
    const double b = window_nll / std::log(2.0) + double(window_firsts) * std::log2(vocab_size);
    const double t = double(window_predicted + window_firsts);
    windows += 1;
    bits_bits += b * b;
    bits_tokens += b * t;
    tokens_tokens += t * t;
  }
  // Of bits(): a ratio of sums over windows, bits to tokens, whose residuals are b - ratio * t
  // (Cochran, Sampling Techniques, chapter 6).
  double standard_error(double vocab_size) const {
    if (windows < 2) return kUnknown;
    const double ratio = bits_seen(vocab_size) / double(seen);
    const double squares = bits_bits - 2 * ratio * bits_tokens + ratio * ratio * tokens_tokens;
    return std::sqrt(std::max(0.0, squares) * windows / (windows - 1)) * double(tokens) /
           double(seen);
  }
};

struct Tallies {
  double vocab_size;
  std::vector<Tally> by_source;     // of a file
  std::vector<Spread> by_position;  // [sequence_length]: tokens before the predicted one, less 1
};

// A batch of windows, in whose rows attention begins where documents do or does not.
struct Windows {
  Batch batch;
  bool cut = false;
};

// Of each label, in order of the batch's places.
Tensor nll_of(const Model& model, const Windows& windows) {
  Tape tape(false);
  const Batch& batch = windows.batch;
  const ModelOutput out =
      model.forward(tape, batch.tokens, windows.cut ? batch.doc_start : Tensor());
  return ops::linear_cross_entropy(tape, out.hidden, tape.parameter(model.head()),
                                   batch.labels.reshape({batch.labels.numel()}), 1)
      .nll;
}

// Adds row `row` of a batch: the nll of its labels, each at its distance from where its text
// begins.
void add_row(const Batch& batch, const Tensor& nll, i64 row, i64 firsts, Tally& tally,
             Tallies& all) {
  const i64 seq = batch.labels.dim(1);
  double sum = 0;
  i64 predicted = 0;
  for (i64 i = 0; i < seq; ++i) {
    const i64 at = row * seq + i;
    if (batch.labels.data<i32>()[at] == kIgnoredLabel) continue;
    const double value = nll.data<double>()[at];
    sum += value;
    ++predicted;
    all.by_position[size_t(i - batch.doc_start.data<i32>()[at])].add(value);
  }
  tally.add_window(sum, predicted, firsts, all.vocab_size);
}

// take(i, batch i, nll of its labels) for i in [0, count), in order; make(i) -> Windows. Of each
// round of batches every rank computes one; where none is left it computes the last one again,
// since a model may be spread over ranks.
template <class Make, class Take>
void for_each_batch(const Model& model, const EvaluateOptions& options, i64 count, Make&& make,
                    Take&& take) {
  const Communicator& ranks = options.ranks;
  for (i64 round = 0; round < count; round += ranks.size()) {
    if (options.before_batch) options.before_batch();
    const Windows own = make(std::min(round + ranks.rank(), count - 1));
    const Tensor nll = nll_of(model, own);
    if (ranks.alone()) {
      take(round, own.batch, nll);
      continue;
    }
    const auto by_rank = ranks.all_gather_values(std::span<const double>(nll.span<double>()));
    for (i64 r = 0; r < std::min<i64>(ranks.size(), count - round); ++r) {
      const std::vector<double>& values = by_rank[size_t(r)];
      take(round + r, r == ranks.rank() ? own.batch : make(round + r).batch,
           Tensor::from<double>({i64(values.size())}, values));
    }
  }
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
                Tallies& tallies) {
  const auto all = evaluation_windows(file, options.sequence_length);
  for (const EvaluationWindow& w : all) tallies.by_source[size_t(w.source)].tokens += w.length;
  const auto windows = thin(all, options.max_tokens, file.num_tokens());
  const i64 step = std::max<i64>(1, options.micro_batch_sequences);
  const auto some = [&](i64 i) {
    return std::span(windows).subspan(size_t(i * step),
                                      size_t(std::min(step, i64(windows.size()) - i * step)));
  };
  for_each_batch(
      model, options, (i64(windows.size()) + step - 1) / step,
      [&](i64 i) {
        return Windows{evaluation_batch(file, some(i), options.sequence_length), false};
      },
      [&](i64 i, const Batch& batch, const Tensor& nll) {
        for (i64 row = 0; row < i64(some(i).size()); ++row) {
          Tally& tally = tallies.by_source[size_t(some(i)[size_t(row)].source)];
          add_row(batch, nll, row, 1, tally, tallies);
        }
      });
}

// The learnt tokens of the documents [first, last) of one source, packed as in training; a window
// counts for nothing where it begins, since an answer follows its question.
void tally_conversations(const Model& model, const TokenFile& file, i64 first, i64 last,
                         const EvaluateOptions& options, Tally& tally, Tallies& all) {
  const i64 seq = options.sequence_length;
  const Packing packing = pack_documents(file, seq, first, last);
  const i64 share = options.max_tokens > 0 ? options.max_tokens / seq : packing.windows();
  const i64 wanted = std::clamp<i64>(share, 1, packing.windows());
  const i64 step = std::max<i64>(1, options.micro_batch_sequences);
  for (i64 i = file.document_offsets()[size_t(first)]; i < file.document_offsets()[size_t(last)];
       ++i) {
    tally.tokens += file.is_trained(i);
  }
  const auto make = [&](i64 i) {
    std::vector<i64> windows;
    for (i64 w = i * step; w < std::min((i + 1) * step, wanted); ++w) {
      windows.push_back(w * packing.windows() / wanted);
    }
    return Windows{packed_batch(file, packing, windows, seq), true};
  };
  for_each_batch(model, options, (wanted + step - 1) / step, make,
                 [&](i64, const Batch& batch, const Tensor& nll) {
                   for (i64 row = 0; row < batch.labels.dim(0); ++row) {
                     add_row(batch, nll, row, 0, tally, all);
                   }
                 });
}

void tally_conversations(const Model& model, const TokenFile& file, const EvaluateOptions& options,
                         Tallies& tallies) {
  const auto sources = file.document_source();
  for (size_t first = 0, last = 0; first < sources.size(); first = last) {
    while (last < sources.size() && sources[last] == sources[first]) ++last;
    tally_conversations(model, file, i64(first), i64(last), options,
                        tallies.by_source[size_t(sources[first])], tallies);
  }
}

std::vector<PositionLoss> losses(std::vector<Spread> positions) {
  while (!positions.empty() && positions.back().n == 0) positions.pop_back();
  std::vector<PositionLoss> out;
  for (const Spread& s : positions) out.push_back({i64(s.n), s.mean(), s.standard_error()});
  return out;
}

}  // namespace

EvalMetrics evaluate(const Model& model, std::span<const std::shared_ptr<const TokenFile>> files,
                     const EvaluateOptions& options) {
  EvalMetrics metrics;
  double bits = 0, variance = 0, nll = 0;
  i64 bytes = 0, predicted = 0;
  const double vocab = double(model.config.vocab_size);
  Tallies tallies{vocab, {}, std::vector<Spread>(size_t(options.sequence_length))};
  for (const auto& file : files) {
    tallies.by_source.assign(file->sources().size(), {});
    if (file->has_mask()) {
      tally_conversations(model, *file, options, tallies);
    } else {
      tally_file(model, *file, options, tallies);
    }
    for (size_t s = 0; s < tallies.by_source.size(); ++s) {
      Tally& t = tallies.by_source[s];
      if (t.seen == 0) continue;
      t.bytes = file->sources()[s].bytes;
      const double error = t.standard_error(vocab);
      metrics.domains.push_back({file->sources()[s].name, t.bits(vocab) / double(t.bytes), t.bytes,
                                 t.tokens, error / double(t.bytes)});
      bits += t.bits(vocab);
      variance += error * error;
      bytes += t.bytes;
      nll += t.nll;
      predicted += t.predicted;
    }
  }
  metrics.bits_per_byte = bytes > 0 ? bits / double(bytes) : 0;
  metrics.standard_error = bytes > 0 ? std::sqrt(variance) / double(bytes) : kUnknown;
  metrics.loss = predicted > 0 ? nll / double(predicted) : 0;
  metrics.by_position = losses(std::move(tallies.by_position));
  return metrics;
}

}  // namespace quern
