// SPDX-License-Identifier: MIT
#include "quern/layers/model.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "quern/autograd/ops/elementwise.h"
#include "quern/autograd/ops/matmul.h"
#include "quern/autograd/ops/rows.h"
#include "quern/autograd/random.h"

namespace quern {
namespace {

// Of a beginning: for fewer, the kernels of training have no more speed than those of decoding.
constexpr i64 kManyTokens = 64;

}  // namespace

Model::Model(const ModelConfig& c, DType type, const Communicator& ep)
    : config(c),
      dtype(type),
      ep(ep),
      embed_tokens("model.embed_tokens.weight", {c.vocab_size, c.hidden_size}, ParamKind::embedding,
                   c.tie_word_embeddings ? type : sum_type(type)),
      norm("model.norm", c.hidden_size, c.rms_norm_eps, sum_type(type)) {
  for (i64 i = 0; i < c.num_hidden_layers; ++i) layers.emplace_back(c, i, type, ep);
  if (!c.tie_word_embeddings) {
    lm_head = Parameter("lm_head.weight", {c.vocab_size, c.hidden_size}, ParamKind::head, type);
  }
  for (i64 k = 1; k <= c.num_nextn_predict_layers; ++k) nextn.emplace_back(c, k, type, ep);
}

namespace {

// Uniform in +-1 / sqrt(in), as PEFT has it.
void fill_low_rank_a(const Tensor& a, const Random& random) {
  const double bound = 1 / std::sqrt(double(a.dim(1)));
  for_float_type(a, [&]<class T>() {
    for (i64 i = 0; i < a.numel(); ++i) {
      a.data<T>()[i] = T(bound * (2 * random.uniform(std::uint64_t(i)) - 1));
    }
  });
}

}  // namespace

const RopeTable& Model::rope_for(i64 positions) const {
  if (!rope_.cos.defined() || rope_.cos.dim(0) < positions) {
    rope_ = RopeTable(config, i64(std::bit_ceil(std::uint64_t(positions))), sum_type(dtype));
  }
  return rope_;
}

AttentionContext Model::context_for(i64 batch, i64 seq) const {
  AttentionContext context{batch, seq, Tensor::empty({batch * seq}, DType::i32), {}, rope_for(seq)};
  for (i64 t = 0; t < batch * seq; ++t) context.positions.data<i32>()[t] = i32(t % seq);
  return context;
}

// Of one new token for each time that a sequence is listed; counts them as filled.
AttentionContext Model::context_for(std::span<const i64> sequences, KvCache& cache) const {
  const i64 count = i64(sequences.size());
  AttentionContext context{.batch = count, .positions = Tensor::empty({count}, DType::i32)};
  context.sequences = Tensor::empty({count}, DType::i32);
  std::vector<i64> tokens = cache.tokens;
  i64 longest = 0;
  for (i64 t = 0; t < count; ++t) {
    const i64 sequence = sequences[size_t(t)];
    const i64 position = tokens.at(size_t(sequence))++;
    context.sequences.data<i32>()[t] = i32(sequence);
    context.positions.data<i32>()[t] = i32(position);
    longest = std::max(longest, position + 1);
  }
  if (longest > cache.max_tokens) {
    throw ConfigError({.what = "more tokens than the cache holds",
                       .expected = "at most " + std::to_string(cache.max_tokens),
                       .actual = std::to_string(longest)});
  }
  context.rope = rope_for(longest);
  cache.tokens = std::move(tokens);
  return context;
}

namespace {

RoutingContext routing_of(const Tensor& ids, const TrainingStep* step, size_t moe_layer) {
  RoutingContext context{
      .sequences = ids.dim(0), .token_ids = ids.reshape({ids.numel()}), .step = {}};
  if (step == nullptr) return context;
  context.step = RouterStep{step->seed, step->first_sample, {}, step->whole_step_known};
  if (moe_layer < step->counted.size()) context.step->counted = step->counted[moe_layer];
  return context;
}

}  // namespace

namespace {

using Segment = std::function<BlockOutput(Tape&, std::span<const Var>)>;

// Runs a layer, and adds what its router says to the output. Where it is to be recomputed, what the
// first run says is kept; the run in backward repeats the arithmetic.
Var run_layer(Tape& tape, std::vector<Var> inputs, const ForwardOptions& options, ModelOutput& out,
              const Segment& segment) {
  std::optional<RouterStats> router;
  LayerTrace trace{inputs[0].value(), {}, {}};
  Var y, aux;
  if (options.recompute) {
    const auto outputs = recompute(
        tape, std::move(inputs), [segment, &router](Tape& t, std::span<const Var> in, bool first) {
          BlockOutput b = segment(t, in);
          if (first) router = std::move(b.router);
          return std::vector<Var>{b.y, b.aux_loss};
        });
    y = outputs[0];
    aux = outputs[1];
  } else {
    BlockOutput b = segment(tape, inputs);
    router = std::move(b.router);
    trace.attn_out = b.attn_out;
    trace.mlp_out = b.mlp_out;
    y = b.y;
    aux = b.aux_loss;
  }
  if (router) {
    if (!options.trace) router->logits = router->expert_ids = router->weights = {};
    out.router.push_back(std::move(*router));
    out.aux_loss = ops::add(tape, out.aux_loss, aux);
  }
  if (options.trace) out.trace.push_back(std::move(trace));
  return y;
}

// The row numbers of the first `kept` places of each of `rows` sequences, `seq` long.
Tensor leading_places(i64 rows, i64 seq, i64 kept) {
  const Tensor places = Tensor::empty({rows * kept}, DType::i32);
  for (i64 i = 0; i < rows * kept; ++i) places.data<i32>()[i] = i32(i / kept * seq + i % kept);
  return places;
}

}  // namespace

ModelOutput Model::forward(Tape& tape, const Tensor& ids, const Tensor& first_key,
                           const ForwardOptions& options) const {
  const i64 batch = ids.dim(0), seq = ids.dim(1);
  AttentionContext context = context_for(batch, seq);
  context.first_key = first_key;
  ModelOutput out;
  out.aux_loss = Var(Tensor::zeros({}, sum_type(dtype)));
  Var x = ops::embedding(tape, ids.reshape({batch * seq}), tape.parameter(embed_tokens));
  for (const Block& layer : layers) {
    x = run_layer(tape, {x}, options, out,
                  [&layer, context, routing = routing_of(ids, options.step, out.router.size())](
                      Tape& t, std::span<const Var> in) {
                    return layer.forward(t, in[0], context, routing);
                  });
  }
  if (options.trace) out.last_hidden = x.value();
  out.hidden = norm.forward(tape, x);
  if (options.step != nullptr) predict_further(tape, ids, first_key, options, out);
  return out;
}

// Module k sees the places whose token k places on is in the row too. The first takes the hidden
// states behind the final norm, as programs do that run the published weights.
void Model::predict_further(Tape& tape, const Tensor& ids, const Tensor& first_key,
                            const ForwardOptions& options, ModelOutput& out) const {
  const i64 batch = ids.dim(0), seq = ids.dim(1);
  Var x = out.hidden;
  for (const NextnModule& module : nextn) {
    const i64 kept = seq - module.depth;
    AttentionContext context = context_for(batch, kept);
    context.first_key = columns_of(first_key, 0, kept);
    const Tensor ahead = columns_of(ids, module.depth, kept);
    const Var hidden = ops::embedding(tape, leading_places(batch, kept + 1, kept), x);
    const Var embedded =
        ops::embedding(tape, ahead.reshape({batch * kept}), tape.parameter(embed_tokens));
    x = run_layer(tape, {hidden, embedded}, options, out,
                  [&module, context, routing = routing_of(ahead, options.step, out.router.size())](
                      Tape& t, std::span<const Var> in) {
                    return module.forward(t, in[0], in[1], context, routing);
                  });
    out.nextn.push_back(module.shared_head_norm.forward(tape, x));
  }
}

// -> hidden states before the final norm, [new tokens, hidden_size]
Tensor Model::decode_tokens(const Tensor& ids, const AttentionContext& context,
                            KvCache& cache) const {
  Tape silent(false);
  Tensor x = ops::embedding(silent, ids, silent.parameter(embed_tokens)).value();
  for (size_t i = 0; i < layers.size(); ++i) {
    x = layers[i].decode(x, context, cache.layers[i], {.token_ids = ids, .step = {}});
  }
  return x;
}

Tensor Model::decode(const Tensor& ids, KvCache& cache, i64 sequence) const {
  const i64 tokens = ids.dim(0);
  const std::vector<i64> of(size_t(tokens), sequence);
  const bool whole = cache.tokens.at(size_t(sequence)) == 0 && tokens >= kManyTokens;
  AttentionContext context = context_for(of, cache);
  context.whole = whole;
  if (whole) context.batch = 1, context.seq = tokens;
  const Tensor x = decode_tokens(ids, context, cache);
  Tape silent(false);
  const Var last = norm.forward(silent, Var(x.rows(tokens - 1, tokens)));
  return ops::linear(silent, last, silent.parameter(head())).value().reshape({config.vocab_size});
}

Tensor Model::decode_each(const Tensor& ids, std::span<const i64> sequences, KvCache& cache) const {
  AttentionContext context = context_for(sequences, cache);
  context.products = ProductRows::alone;
  Tape silent(false, ProductRows::alone);
  const Var last = norm.forward(silent, Var(decode_tokens(ids, context, cache)));
  return ops::linear(silent, last, silent.parameter(head())).value();
}

void Model::visit(const ParamVisitor& plain) {
  const ParamVisitor visitor = [&plain](Parameter& p) {
    plain(p);
    if (p.update == nullptr) return;
    plain(p.update->a);
    plain(p.update->b);
  };
  visitor(embed_tokens);
  for (Block& layer : layers) layer.visit(visitor);
  norm.visit(visitor);
  if (!config.tie_word_embeddings) visitor(lm_head);
  for (NextnModule& module : nextn) module.visit(visitor);
}

void Model::visit_blocks(const std::function<void(Block&)>& visitor) {
  for (Block& layer : layers) visitor(layer);
  for (NextnModule& module : nextn) visitor(module.block);
}

void Model::add_low_rank_updates(i64 rank, double scale,
                                 const std::function<bool(const Parameter&)>& target) {
  visit([&](Parameter& p) {
    if (!is_low_rank(p) && target(p)) p.update = std::make_shared<LowRank>(p, rank, scale);
  });
  visit_blocks([](Block& layer) {
    if (layer.moe) layer.moe->stack_updates();
  });
}

std::vector<Parameter*> Model::for_other_ranks() {
  std::vector<Parameter*> stacks;
  visit_blocks([&](Block& layer) {
    if (!layer.moe) return;
    for (Parameter& p : layer.moe->for_other_ranks) stacks.push_back(&p);
  });
  return stacks;
}

void Model::sum_over_senders() {
  visit_blocks([](Block& layer) {
    if (layer.moe) layer.moe->sum_over_senders();
  });
}

void Model::train_only(const std::function<bool(const Parameter&)>& trained) {
  visit([&](Parameter& p) {
    if (!trained(p)) p.freeze();
  });
  visit_blocks([](Block& layer) {
    if (layer.moe) layer.moe->hold_gradients();
    if (layer.dense) layer.dense->hold_gradients();
  });
}

void Model::visit_tensors(const TensorVisitor& visitor) {
  visit([&](Parameter& p) { visitor(p.name, p.value); });
  visit_buffers(visitor);
}

void Model::visit_buffers(const TensorVisitor& visitor) {
  visit_blocks([&](Block& layer) {
    if (layer.moe) layer.moe->router.visit_buffers(visitor);
  });
}

void Model::update_router_biases(const std::vector<std::vector<i64>>& expert_load) {
  size_t moe_layer = 0;
  visit_blocks([&](Block& layer) {
    if (layer.moe) layer.moe->router.update_bias(expert_load.at(moe_layer++));
  });
}

void Model::initialise(std::uint64_t seed) {
  visit([&](Parameter& p) {
    if (p.kind == ParamKind::norm) return p.value.fill(1);
    if (p.kind == ParamKind::low_rank_b) return p.value.fill(0);
    if (p.kind == ParamKind::low_rank_a)
      return fill_low_rank_a(p.value, Random(seed, "init/" + p.name));
    const double std =
        p.kind == ParamKind::embedding ? config.embedding_init_std : config.initializer_range;
    fill_normal(p.value, Random(seed, "init/" + p.name), std);
  });
  round_images();
}

void Model::round_images() {
  visit([](Parameter& p) { p.round_image(); });
}

}  // namespace quern
