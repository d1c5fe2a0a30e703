// SPDX-License-Identifier: MIT
#include "bench/decode.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <vector>

#include "quern/autograd/error.h"
#include "quern/autograd/kernels/parallel.h"
#include "quern/autograd/ops/matmul.h"
#include "quern/layers/attention_shape.h"
#include "quern/layers/kv_cache.h"
#include "quern/layers/model.h"

namespace quern::bench {
namespace {

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Tokens of a fixed pattern, spread over the vocabulary.
Tensor pattern(const ModelConfig& config, i64 count) {
  const Tensor ids = Tensor::empty({count}, DType::i32);
  for (i64 i = 0; i < count; ++i) ids.data<i32>()[i] = i32(i * 7919 % config.vocab_size);
  return ids;
}

void verify(const Model& model) {
  constexpr i64 kTokens = 12;
  const Tensor ids = pattern(model.config, kTokens);
  Tape silent(false);
  const Var hidden = model.forward(silent, ids.reshape({1, kTokens})).hidden;
  const Var last(hidden.value().rows(kTokens - 1, kTokens));
  const Tensor expected = ops::linear(silent, last, silent.parameter(model.head())).value();
  KvCache cache(model.config, kTokens, DType::f32);
  Tensor logits;
  for (i64 t = 0; t < kTokens; ++t) logits = model.decode(ids.rows(t, t + 1), cache);
  double largest = 0, error = 0;
  for (i64 i = 0; i < logits.numel(); ++i) {
    const double a = logits.data<float>()[i], b = expected.data<float>()[i];
    largest = std::max(largest, std::abs(b));
    error = std::max(error, std::abs(a - b));
  }
  // Rounded to bf16, operands are off by up to 2^-9; decoding rounds others than the forward pass.
  if (error <= (model.dtype == DType::bf16 ? 8 * std::ldexp(1.0, -9) : 1e-4) * largest) return;
  throw Error({.what = "decoding gives other logits than the forward pass"}, ExitCode::kInternal);
}

// Bytes per second in which all threads read a buffer, the best of a few passes.
double read_rate(i64 bytes) {
  constexpr i64 kChunk = i64(1) << 18;
  const i64 floats = bytes / 4;
  const std::vector<float> buffer(static_cast<size_t>(floats), 1.0f);
  std::vector<float> sums(static_cast<size_t>((floats + kChunk - 1) / kChunk));
  double best = 0;
  for (int pass = 0; pass < 5; ++pass) {
    const double begin = seconds_now();
    parallel_chunks(floats, kChunk, [&](i64 first, i64 end) {
      float lanes[64] = {};  // independent sums, so that memory is what limits
      i64 i = first;
      for (; i + 64 <= end; i += 64) {
        for (i64 k = 0; k < 64; ++k) lanes[k] += buffer[size_t(i + k)];
      }
      for (; i < end; ++i) lanes[0] += buffer[size_t(i)];
      float sum = 0;
      for (const float lane : lanes) sum += lane;
      sums[size_t(first / kChunk)] = sum;
    });
    best = std::max(best, double(bytes) / (seconds_now() - begin));
  }
  double total = 0;
  for (const float sum : sums) total += double(sum);
  if (total != double(floats)) throw Error({.what = "a sum is wrong"}, ExitCode::kInternal);
  return best;
}

}  // namespace

DecodeTimes time_decode(const ModelConfig& config, DType dtype, i64 context, i64 tokens,
                        i64 batch) {
  Model model(config, dtype);
  model.initialise(1);
  verify(model);
  KvCache cache(config, context + tokens, DType::f32, batch);
  Tensor logits = Tensor::empty({batch, config.vocab_size}, DType::f32);
  std::vector<i64> sequences;
  DecodeTimes times{.tokens = tokens, .batch = batch};
  for (i64 s = 0; s < batch; ++s) {
    // Each begins elsewhere in the pattern, so that they choose different experts.
    const Tensor ids = pattern(config, context + s).rows(s, s + context);
    const double begin = seconds_now();
    const Tensor last = model.decode(ids, cache, s);
    times.prompt_seconds = seconds_now() - begin;
    logits.rows(s, s + 1).copy_from(last.reshape({1, config.vocab_size}));
    sequences.push_back(s);
  }
  const Tensor next = Tensor::empty({batch}, DType::i32);
  const double begin = seconds_now();
  for (i64 t = 0; t < tokens; ++t) {
    for (i64 s = 0; s < batch; ++s) {
      const auto row = logits.rows(s, s + 1).span<float>();
      next.data<i32>()[s] = i32(std::max_element(row.begin(), row.end()) - row.begin());
    }
    logits = model.decode_each(next, sequences, cache);
  }
  times.seconds = seconds_now() - begin;
  const ParameterCount count = count_parameters(config);
  times.bytes_per_token =
      double(size_of(dtype)) * double(count.active_without_input_embedding) +
      4.0 * double(cache_elements_per_token(config)) * (double(context) + double(tokens) / 2);
  times.read_rate = read_rate(size_of(dtype) * count.total);
  return times;
}

}  // namespace quern::bench
