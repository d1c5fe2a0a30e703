// SPDX-License-Identifier: MIT
// A training loop of one's own: a tiny model, a few steps on one batch, a checkpoint. Exits with 1
// where the loss does not fall or the checkpoint gives another model back.
#include <cstdio>
#include <filesystem>
#include <vector>

#include "quern/autograd/ops/elementwise.h"
#include "quern/autograd/ops/loss.h"
#include "quern/layers/model.h"
#include "quern/optim/adamw.h"
#include "quern/recipes/checkpoint.h"

namespace {

using namespace quern;

constexpr i64 kBatch = 2, kSeq = 8, kVocab = 32;

ModelConfig tiny() {
  ModelConfig c;
  c.vocab_size = kVocab;
  c.hidden_size = 16;
  c.num_hidden_layers = 2;
  c.num_attention_heads = 2;
  c.kv_lora_rank = 8;
  c.qk_nope_head_dim = c.v_head_dim = 8;
  c.qk_rope_head_dim = 4;
  c.intermediate_size = 32;
  c.n_routed_experts = 4;
  c.num_experts_per_tok = 2;
  c.moe_intermediate_size = 16;
  validate(c);
  return c;
}

// Counting upwards from two numbers: each token's label is the next one.
Tensor numbers(i32 first, const Shape& shape) {
  Tensor t = Tensor::empty(shape, DType::i32);
  const std::span<i32> ids = t.span<i32>();
  for (i64 i = 0; i < t.numel(); ++i) ids[size_t(i)] = i32((first + i) % kVocab);
  return t;
}

// Mean negative log-likelihood; the balance loss is trained with it.
double forward_backward(Model& model, bool train) {
  Tape tape(train);
  const ModelOutput out = model.forward(tape, numbers(0, {kBatch, kSeq}));
  const Var nll = ops::linear_cross_entropy(tape, out.hidden, tape.parameter(model.head()),
                                            numbers(1, {kBatch * kSeq}), 1.0 / (kBatch * kSeq))
                      .loss;
  if (train) tape.backward(ops::add(tape, nll, out.aux_loss));
  return nll.item();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const std::filesystem::path run = argv[1];

  Model model(tiny());
  model.initialise(1);
  std::vector<Parameter*> parameters;
  model.visit([&](Parameter& p) { parameters.push_back(&p); });
  AdamW optimizer({}, parameters, [](const Parameter& p) { return is_decayed(p, {}); });

  const double first = forward_backward(model, false);
  for (int step = 0; step < 20; ++step) {
    for (Parameter* p : parameters) p->clear_grad();
    forward_backward(model, true);
    optimizer.step(1e-2);
  }
  const double last = forward_backward(model, false);

  save_checkpoint(run, model, optimizer, {.step = 20}, {});
  Model loaded(read_checkpoint_info(run).model);
  load_weights(run, loaded);
  const double again = forward_backward(loaded, false);

  std::printf("loss: %.4f, after 20 steps %.4f, from the checkpoint %.4f\n", first, last, again);
  return last < first / 2 && again == last ? 0 : 1;
}
