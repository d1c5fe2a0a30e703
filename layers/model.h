// SPDX-License-Identifier: MIT
// The whole decoder: embedding, layers, final norm and head.
#pragma once

#include <vector>

#include "quern/layers/nextn.h"

namespace quern {

// What the routers have to know of the training step that a batch belongs to.
struct TrainingStep {
  std::uint64_t seed = 0;
  i64 first_sample = 0;  // of the batch, among all of the run
  // [MoE layers]: RouterStats::counted of the step so far; or, where the whole step is known, of
  // all of it.
  std::vector<ops::ChoiceCounts> counted;
  bool whole_step_known = false;
};

struct ForwardOptions {
  bool recompute = false;  // keep only each layer's input, run layers again in backward
  bool trace = false;      // keep every intermediate value, for comparison with a reference
  const TrainingStep* step = nullptr;  // in training only
};

struct LayerTrace {
  Tensor hidden, attn_out, mlp_out;  // [tokens, hidden]; hidden is the layer's input
};

struct ModelOutput {
  Var hidden;                       // [tokens, hidden_size], after the final norm
  Var aux_loss;                     // scalar: the sum over layers
  std::vector<RouterStats> router;  // one for each MoE layer, and then for modules that have one
  std::vector<LayerTrace> trace;
  Tensor last_hidden;      // with `trace`: before the final norm
  std::vector<Var> nextn;  // in training: of each module, [batch * (seq - k), hidden_size], normed
};

// A DeepSeek-V2 model (arXiv:2405.04434, section 2), or with the attention of Llama instead.
// Parameters have their Hugging Face names.
struct Model {
  // bf16: mixed precision. Products of attention, experts, FFNs and head read operands rounded to
  // bf16, and such are kept for backward; parameters, sums, norms, softmax, router, residual
  // stream, loss and all gradients are f32.
  // Of the routed experts a rank of `ep` has its share alone, and visits these; forward and decode
  // are then calls of the whole group, each rank with a batch of its own.
  explicit Model(const ModelConfig& config, DType dtype = DType::f32, const Communicator& ep = {});

  // ids: i32 [batch, seq];  first_key: i32 [batch, seq] or nothing (see Attention in kernels)
  // Throws DataError on an id outside the vocabulary.
  ModelOutput forward(Tape& tape, const Tensor& ids, const Tensor& first_key = {},
                      const ForwardOptions& options = {}) const;

  // Logits after the last of the new tokens, which are appended to a sequence of the cache; a long
  // beginning of one goes through the kernels of training.
  // ids: i32 [new tokens]  ->  [vocab_size]. Throws ConfigError when the cache is full.
  Tensor decode(const Tensor& ids, KvCache& cache, i64 sequence = 0) const;
  // The same of one new token for each of some sequences: ids: i32 [sequences]  ->  [sequences,
  // vocab_size]. A row has the same bits whatever the other ones are, and as decode() gives.
  Tensor decode_each(const Tensor& ids, std::span<const i64> sequences, KvCache& cache) const;

  // The matrix of the output head: lm_head, or the embedding when tied.
  Parameter& head() const { return config.tie_word_embeddings ? embed_tokens : lm_head; }

  void visit(const ParamVisitor& visitor);  // updates of low rank behind their matrices
  // The layers, and those within `nextn`.
  void visit_blocks(const std::function<void(Block&)>& visitor);
  // Stacks of experts whose gradients are for the tokens of other ranks of `ep`; nothing without.
  std::vector<Parameter*> for_other_ranks();
  // Adds those gradients to the experts' own.
  void sum_over_senders();
  // Gives the matrices that `target` takes an update of low rank, which is visited behind them.
  // Once, before initialise(). Throws ConfigError as Moe::stack_updates() does.
  void add_low_rank_updates(i64 rank, double scale,
                            const std::function<bool(const Parameter&)>& target);
  // Freezes the parameters that `trained` does not take: they get no gradient, and a router whose
  // gate is frozen keeps its bias. Before gradients are computed; what is frozen stays frozen.
  void train_only(const std::function<bool(const Parameter&)>& trained);
  // The state dict: the values of all parameters, and biases of routers, which are none.
  void visit_tensors(const TensorVisitor& visitor);
  void visit_buffers(const TensorVisitor& visitor);  // those that are no parameters

  // Once after each step of the optimizer; expert_load: [MoE layers][experts], the whole step's.
  void update_router_biases(const std::vector<std::vector<i64>>& expert_load);

  // Weights ~ N(0, initializer_range^2), embeddings ~ N(0, embedding_init_std^2), gains 1; each
  // value depends on (seed, parameter name, index) alone.
  void initialise(std::uint64_t seed);
  // To be called when values have changed otherwise than by initialise() or an optimizer: the bf16
  // images that products read follow.
  void round_images();

  ModelConfig config;
  DType dtype;
  Communicator ep;
  mutable Parameter embed_tokens;  // [vocab_size, hidden_size]
  std::vector<Block> layers;
  RmsNorm norm;
  mutable Parameter lm_head;  // [vocab_size, hidden_size]; nothing when tied
  std::vector<NextnModule> nextn;

 private:
  void predict_further(Tape& tape, const Tensor& ids, const Tensor& first_key,
                       const ForwardOptions& options, ModelOutput& out) const;
  const RopeTable& rope_for(i64 positions) const;
  AttentionContext context_for(i64 batch, i64 seq) const;
  AttentionContext context_for(std::span<const i64> sequences, KvCache& cache) const;
  Tensor decode_tokens(const Tensor& ids, const AttentionContext& context, KvCache& cache) const;
  mutable RopeTable rope_;
};

}  // namespace quern
