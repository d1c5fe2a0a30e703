// SPDX-License-Identifier: MIT
#include "bench/decode.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <set>
#include <vector>

#include "bench/median.h"
#include "quern/autograd/error.h"
#include "quern/autograd/kernels/parallel.h"
#include "quern/autograd/ops/matmul.h"
#include "quern/layers/attention_shape.h"
#include "quern/layers/kv_cache.h"
#include "quern/layers/model.h"
#include "quern/recipes/generate.h"

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

// Bytes per second in which all threads read a buffer, the median of a few passes.
double read_rate(i64 bytes) {
  constexpr i64 kChunk = i64(1) << 18;
  const i64 floats = bytes / 4;
  const std::vector<float> buffer(static_cast<size_t>(floats), 1.0f);
  std::vector<float> sums(static_cast<size_t>((floats + kChunk - 1) / kChunk));
  std::vector<double> rates;
  for (int pass = 0; pass < 9; ++pass) {
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
    rates.push_back(double(bytes) / (seconds_now() - begin));
  }
  double total = 0;
  for (const float sum : sums) total += double(sum);
  if (total != double(floats)) throw Error({.what = "a sum is wrong"}, ExitCode::kInternal);
  return median(rates);
}

// Sequences and their choices of experts, of the last `tokens` of each: different ones in a pass,
// mean over layers and passes. Forward routes as decoding did, up to rounding.
double experts_per_layer(const Model& model, const std::vector<std::vector<i32>>& sequences,
                         i64 tokens) {
  std::vector<std::vector<std::set<i32>>> met;  // [layers][passes]
  for (const std::vector<i32>& ids : sequences) {
    const i64 length = i64(ids.size());
    Tape silent(false);
    const ModelOutput out =
        model.forward(silent, Tensor::from<i32>({1, length}, ids), {}, {.trace = true});
    met.resize(out.router.size(), std::vector<std::set<i32>>(size_t(tokens)));
    for (size_t layer = 0; layer < met.size(); ++layer) {
      const Tensor& chosen = out.router[layer].expert_ids;
      for (i64 t = 0; t < tokens; ++t) {
        const auto row = chosen.rows(length - tokens + t, length - tokens + t + 1).span<i32>();
        met[layer][size_t(t)].insert(row.begin(), row.end());
      }
    }
  }
  double sum = 0;
  for (const auto& layer : met) {
    for (const std::set<i32>& experts : layer) sum += double(experts.size());
  }
  return met.empty() ? 0 : sum / double(i64(met.size()) * tokens);
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
  std::vector<std::vector<i32>> ids_of;
  DecodeTimes times;
  for (i64 s = 0; s < batch; ++s) {
    // Each begins elsewhere in the pattern, so that they choose different experts.
    const Tensor ids = pattern(config, context + s).rows(s, s + context);
    const double begin = seconds_now();
    const Tensor last = model.decode(ids, cache, s);
    times.prompt_seconds = seconds_now() - begin;
    logits.rows(s, s + 1).copy_from(last.reshape({1, config.vocab_size}));
    sequences.push_back(s);
    ids_of.emplace_back(ids.span<i32>().begin(), ids.span<i32>().end());
  }
  const Tensor next = Tensor::empty({batch}, DType::i32);
  std::vector<double> passes;
  for (i64 t = 0; t < tokens; ++t) {
    const double begin = seconds_now();
    parallel_for(batch, [&](i64 s) {
      next.data<i32>()[s] = sample_token(logits.rows(s, s + 1), {.temperature = 0}, 0);
    });
    logits = model.decode_each(next, sequences, cache);
    passes.push_back(seconds_now() - begin);
    for (i64 s = 0; s < batch; ++s) ids_of[size_t(s)].push_back(next.data<i32>()[s]);
  }
  times.pass_seconds = median(passes);
  times.experts_per_layer = experts_per_layer(model, ids_of, tokens);
  const ParameterCount count = count_parameters(config);
  const i64 expert = 3 * config.hidden_size * config.moe_intermediate_size;
  double weights = double(count.active_without_input_embedding);
  if (config.n_routed_experts > 0) {
    const i64 layers = count.routed_experts / (expert * config.n_routed_experts);
    weights +=
        double(layers * expert) * (times.experts_per_layer - double(config.num_experts_per_tok));
  }
  times.bytes_per_pass =
      double(size_of(dtype)) * weights + 4.0 * double(batch * cache_elements_per_token(config)) *
                                             (double(context) + double(tokens) / 2);
  times.read_rate = read_rate(size_of(dtype) * count.total);
  return times;
}

}  // namespace quern::bench
