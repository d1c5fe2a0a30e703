// SPDX-License-Identifier: MIT
#include "quern/recipes/trainer.h"

#include <chrono>
#include <cmath>
#include <numeric>

#include "quern/autograd/kernels/cpu.h"
#include "quern/autograd/ops/elementwise.h"
#include "quern/autograd/ops/loss.h"
#include "quern/distributed/grad_sync.h"
#include "quern/optim/grad_clip.h"
#include "quern/recipes/apply_adapter.h"
#include "quern/recipes/finetune.h"
#include "quern/recipes/internal/global_order.h"
#include "quern/recipes/internal/step_parts.h"
#include "quern/recipes/rank_layout.h"

namespace quern {
namespace {

AdamW make_optimizer(const OptimRecipe& o, std::vector<Parameter*> parameters) {
  const DecayExemptions exemptions{!o.decay_norms, !o.decay_embeddings, !o.decay_gate};
  return AdamW({o.beta1, o.beta2, o.eps, o.weight_decay, o.moments_dtype == "bf16"},
               std::move(parameters),
               [=](const Parameter& p) { return is_decayed(p, exemptions); });
}

BatchScheduleOptions batch_schedule_of(const Recipe& r) {
  const bool ramp = r.train.batch_sequences_start > 0;
  return {ramp ? r.train.batch_sequences_start : r.train.batch_sequences, r.train.batch_sequences,
          ramp ? r.train.batch_rampup_tokens : 0, r.train.lanes * r.train.micro_batch_sequences,
          r.data.sequence_length};
}

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::vector<Parameter*> joined(std::vector<Parameter*> a, const std::vector<Parameter*>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

// What the first rank that has something to say says.
std::string first_of(const Communicator& world, const std::string& own) {
  for (const auto& text : world.all_gather_values(std::span<const char>(own))) {
    if (!text.empty()) return {text.begin(), text.end()};
  }
  return "";
}

void add_counts(const Communicator& world, ops::ChoiceCounts& counts) {
  std::vector<i64> mine = {counts.tokens};
  mine.insert(mine.end(), counts.chosen.begin(), counts.chosen.end());
  mine.insert(mine.end(), counts.sent.begin(), counts.sent.end());
  std::vector<i64> sum(mine.size());
  for (const std::vector<i64>& of : world.all_gather_values(std::span<const i64>(mine))) {
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += of[i];
  }
  counts.tokens = sum[0];
  const auto middle = sum.begin() + 1 + std::ptrdiff_t(counts.chosen.size());
  counts.chosen.assign(sum.begin() + 1, middle);
  counts.sent.assign(middle, sum.end());
}

i64 count_labels(const Tensor& labels) {
  i64 counted = 0;
  for (const i32 label : labels.span<i32>()) counted += label != kIgnoredLabel;
  return counted;
}

}  // namespace

std::string resolved_dtype(const TrainRecipe& train) {
  if (train.dtype != "auto") return train.dtype;
  return multiplies_bf16_faster(kernel_set()) ? "bf16" : "fp32";
}

LrSchedule lr_schedule_of(const Recipe& recipe) {
  const OptimRecipe& o = recipe.optim;
  LrSchedule s;
  for (const LrKind kind : {LrKind::constant, LrKind::cosine, LrKind::wsd, LrKind::multistep}) {
    if (o.schedule == name_of(kind)) s.kind = kind;
  }
  s.peak_lr = o.lr;
  s.warmup_steps = o.warmup_steps;
  s.total_steps = recipe.train.steps;
  s.min_lr_ratio = o.min_lr_ratio;
  s.decay_fraction = o.decay_fraction;
  s.drops.clear();
  for (size_t i = 0; i < o.multistep_fractions.size(); ++i) {
    s.drops.push_back({o.multistep_fractions[i], o.multistep_factors[i]});
  }
  return s;
}

std::shared_ptr<const Sampler> make_sampler(const Recipe& recipe) {
  std::vector<SamplerSource> sources;
  for (const TrainSource& s : recipe.data.train) {
    auto file = std::make_shared<const TokenFile>(s.path);
    if (file->vocab_size() > recipe.model.vocab_size) {
      throw DataError({.file = s.path,
                       .what = "tokens beyond the model's vocabulary",
                       .expected = "at most " + std::to_string(recipe.model.vocab_size),
                       .actual = std::to_string(file->vocab_size()),
                       .hint = "set model.vocab_size=" + std::to_string(file->vocab_size())});
    }
    sources.push_back({std::move(file), s.weight});
  }
  return std::make_shared<const Sampler>(std::move(sources), recipe.data.sequence_length,
                                         std::uint64_t(recipe.train.seed),
                                         recipe.data.mask_across_documents);
}

Trainer::Trainer(const Recipe& recipe, std::shared_ptr<const Sampler> sampler, StepHooks hooks,
                 const ParallelGroups& groups)
    : recipe_(recipe),
      sampler_(std::move(sampler)),
      groups_(groups),
      model_(recipe.model, resolved_dtype(recipe.train) == "bf16" ? DType::bf16 : DType::f32,
             groups.ep),
      parameters_(trained_parameters(model_, recipe)),
      with_gradients_(joined(parameters_, model_.for_other_ranks())),
      layout_(groups, parameters_, recipe.distributed.shard_optimizer),
      optimizer_(make_optimizer(recipe.optim, layout_.own_moments())),
      lr_schedule_(lr_schedule_of(recipe)),
      batch_schedule_(batch_schedule_of(recipe)),
      lanes_(with_gradients_, lanes_of_a_rank(recipe.train.lanes, groups.world.size())),
      guard_(recipe.guard),
      hooks_(std::move(hooks)) {
  if (!groups.ep.alone() && (recipe.finetune.method != "full" || !recipe.finetune.frozen.empty() ||
                             !recipe.train.init_adapters.empty())) {
    throw ConfigError({.key = "distributed.ep_size",
                       .what = "experts spread over ranks are trained all or not at all",
                       .expected = "1 where a part of the model is trained",
                       .actual = std::to_string(recipe.distributed.ep_size)});
  }
  for (Parameter* p : parameters_) {
    const bool apart = p->kind == ParamKind::routed_expert && !groups.ep.alone();
    (apart ? spread_ : everywhere_).push_back(p);
  }
  model_.initialise(std::uint64_t(recipe.train.seed));
  if (!recipe.finetune.distill_from.empty()) {
    teacher_.emplace(recipe, model_.dtype, sampler_->sources()[0].file->tokenizer_sha256());
  }
}

void Trainer::sum_over_ranks(GradientSums& begun) {
  model_.sum_over_senders();
  begun.finish();
  sum_gradients(spread_, groups_.expert_dp);
}

// Each parameter counts once, wherever it is, in the order of one rank that has them all.
double Trainer::norm_over_ranks() const {
  const std::vector<double> sums = in_global_order<double>(
      squared_norms(parameters_), spread_ones(parameters_),
      [&](std::span<const double> spread) { return groups_.ep.all_gather_values(spread); });
  return std::sqrt(std::accumulate(sums.begin(), sums.end(), 0.0));
}

void load_initial_weights(const ModelFile& weights, std::span<const std::string> adapters,
                          const std::string& tokenizer_sha256, Model& model) {
  if (read_checkpoint_info(weights).context.tokenizer_sha256 != tokenizer_sha256) {
    throw ConfigError({.file = weights.path.string(),
                       .what = "weights of another tokenizer than the token files'",
                       .hint = "quern prepare --tokenizer with the tokenizer.json of that run"});
  }
  try {
    load_weights(weights, model);
  } catch (const CheckpointError& error) {  // its bytes are good, so it is the recipe that errs
    ErrorFacts facts = error.facts();
    facts.hint = "`quern inspect` shows the model of this checkpoint";
    throw ConfigError(facts);
  }
  apply_adapters(adapters, tokenizer_sha256, model);
}

void Trainer::start_from(const ModelFile& weights) {
  load_initial_weights(weights, recipe_.train.init_adapters,
                       sampler_->sources()[0].file->tokenizer_sha256(), model_);
}

void Trainer::restore(const std::filesystem::path& checkpoint) {
  progress_ = load_checkpoint(checkpoint, model_, optimizer_, layout_);
  next_sample_ = progress_.next_sample;
  guard_.set_state(progress_.guard_state);
}

void Trainer::roll_back(const std::filesystem::path& checkpoint, const BadStep& bad) {
  progress_ = load_checkpoint(checkpoint, model_, optimizer_, layout_);
  next_sample_ = bad.first_sample + bad.sequences;
  guard_.set_state_after_rollback(progress_.guard_state);
}

Batch Trainer::batch_of(i64 step, i64 passed_over) const {
  return sampler_->batch(batch_schedule_.first_sample(step) + passed_over,
                         batch_schedule_.sequences(step));
}

StepReport Trainer::step(const Batch& batch) {
  StepReport report;
  const double begin = seconds_now();
  compute_gradients(batch, report, nullptr);
  const double differentiated = seconds_now();
  report.forward_backward_s = differentiated - begin;
  report.grad_norm = norm_over_ranks();
  report.lr = lr_schedule_.lr(progress_.step);
  // Nothing below this line runs on a step that the guard refuses.
  if (const auto symptom =
          guard_.examine(report.loss, report.aux_loss + report.nextn_loss, report.grad_norm)) {
    report.bad = refuse(batch, *symptom);
    return report;
  }
  const double max_norm = recipe_.optim.max_grad_norm;
  optimizer_.step(report.lr, max_norm > 0 ? clip_scale(report.grad_norm, max_norm) : 1);
  layout_.gather_values();
  model_.update_router_biases(report.expert_load);
  report.optimizer_s = seconds_now() - differentiated;
  ++progress_.step;
  progress_.tokens_seen += report.tokens;
  progress_.next_sample = next_sample_ += batch.tokens.dim(0);
  guard_.accept(progress_.step, report.loss, report.grad_norm);
  progress_.guard_state = guard_.state();
  return report;
}

BadStep Trainer::refuse(const Batch& batch, const Symptom& symptom) {
  BadStep bad{.step = progress_.step + 1,
              .first_sample = next_sample_,
              .sequences = batch.tokens.dim(0),
              .what = symptom.what};
  if (!symptom.spike) bad.place = find_fault(batch);
  bad.action = guard_.refuse(symptom, bad.step);
  bad.in_a_row = guard_.in_a_row();
  if (bad.action == BadStepAction::skip) next_sample_ += bad.sequences;
  return bad;
}

// Computes the step again, with the same bits, and looks at every number on the way.
std::string Trainer::find_fault(const Batch& batch) {
  FaultFinder finder(parameters_);
  finder.look_at_weights();
  if (std::string fault = first_of(groups_.world, finder.fault()); !fault.empty()) return fault;
  StepReport again;
  compute_gradients(batch, again, &finder);
  finder.look_at_sums();
  if (std::string fault = first_of(groups_.world, finder.fault()); !fault.empty()) return fault;
  return "every number was finite when the step was computed again: a fault of memory or "
         "processor?";
}

void Trainer::compute_gradients(const Batch& batch, StepReport& report, FaultFinder* finder) {
  const i64 micro = recipe_.train.micro_batch_sequences;
  const i64 counted = count_labels(batch.labels);
  report.tokens = batch.tokens.numel();
  std::vector<MicroBatchReport> parts;
  const double begin = seconds_now() - groups_.ep.waited_s();
  TrainingStep whole{std::uint64_t(recipe_.train.seed), 0, {}};
  if (recipe_.model.balance_scope == "global_exact") {
    whole.counted = count_choices(batch, whole);
    whole.whole_step_known = true;
  }
  for (Parameter* p : with_gradients_) p->clear_grad();
  GradientSums sums(everywhere_, groups_.world);
  for (i64 own = 0; own < lanes_.lanes(); ++own) {
    const auto [lane, lane_begin, lane_end] = lane_part(
        own, groups_.world.rank(), groups_.world.size(), recipe_.train.lanes, batch.tokens.dim(0));
    const TapeWatch hook = hooks_.watch ? hooks_.watch(next_sample_, lane) : TapeWatch();
    const TapeWatch watch = finder != nullptr ? finder->after(hook) : hook;
    const bool watched = watch.output || watch.gradient;
    TrainingStep step = whole;
    for (i64 first = lane_begin; first < lane_end; first += micro) {
      const bool last = own + 1 == lanes_.lanes() && first + micro >= lane_end;
      parts.push_back(run_micro_batch(batch, first, micro, counted, watched ? &watch : nullptr,
                                      step, last && !groups_.world.alone() ? &sums : nullptr));
    }
    lanes_.add_lane(own);
  }
  lanes_.finish();
  const double seconds = seconds_now() - groups_.ep.waited_s() - begin;
  sum_over_ranks(sums);
  add_parts(parts, groups_.world, report);
  for (const auto& one : groups_.world.all_gather_values(std::span(&seconds, 1))) {
    report.rank_seconds.push_back(one[0]);
  }
}

// Those of each router in the whole step, cut as it will be, by running forward alone.
std::vector<ops::ChoiceCounts> Trainer::count_choices(const Batch& batch, TrainingStep step) const {
  const i64 micro = recipe_.train.micro_batch_sequences;
  const i64 own = batch.tokens.dim(0) / groups_.world.size();
  std::vector<ops::ChoiceCounts> counted;
  for (i64 first = groups_.world.rank() * own; first < (groups_.world.rank() + 1) * own;
       first += micro) {
    Tape silent(false);
    step.first_sample = next_sample_ + first;
    const Tensor first_key =
        sampler_->masks_documents() ? batch.doc_start.rows(first, first + micro) : Tensor();
    const ModelOutput out =
        model_.forward(silent, batch.tokens.rows(first, first + micro), first_key, {.step = &step});
    counted.resize(out.router.size());
    for (size_t i = 0; i < counted.size(); ++i) counted[i].add(out.router[i].counted);
  }
  for (ops::ChoiceCounts& c : counted) add_counts(groups_.world, c);
  return counted;
}

// The loss is the step's mean: each token weighs 1 / counted, each sequence's balance loss
// 1 / sequences, so that neither depends on how the step is cut.
MicroBatchReport Trainer::run_micro_batch(const Batch& batch, i64 first, i64 count, i64 counted,
                                          const TapeWatch* watch, TrainingStep& step,
                                          GradientSums* completes) {
  const Tensor labels = batch.labels.rows(first, first + count);
  const Tensor first_key =
      sampler_->masks_documents() ? batch.doc_start.rows(first, first + count) : Tensor();
  Tape tape;
  tape.set_watch(watch);
  step.first_sample = next_sample_ + first;
  const ModelOutput out = model_.forward(tape, batch.tokens.rows(first, first + count), first_key,
                                         {.recompute = recipe_.train.recompute, .step = &step});
  const Var head = tape.parameter(model_.head());
  const Tensor flat = labels.reshape({labels.numel()});
  const double weight = 1.0 / double(std::max<i64>(counted, 1));
  const Var nll = ops::linear_cross_entropy(tape, out.hidden, head, flat, weight).loss;
  const Var learnt =
      teacher_ ? teacher_->loss(tape, nll, out, head, batch.tokens.rows(first, first + count),
                                first_key, flat, weight)
               : nll;
  const double share = double(count) / double(batch.tokens.dim(0));
  Var loss = ops::add(tape, learnt, ops::scale(tape, out.aux_loss, share));
  MicroBatchReport part{nll.item(), 0, out.aux_loss.item(), share, {}, {}};
  if (!out.nextn.empty()) {
    const Var further = nextn_loss(tape, out.nextn, head, labels, first_key, weight);
    loss = ops::add(tape, loss, ops::scale(tape, further, recipe_.model.nextn_loss_weight));
    part.nextn_loss = further.item();
  }
  if (completes != nullptr) {
    tape.set_on_complete([&](const Parameter& p) {
      lanes_.complete(p.grad_written.get());
      completes->complete(p.grad_written.get());
    });
  }
  tape.backward(loss);
  step.counted.resize(out.router.size());
  for (size_t layer = 0; layer < out.router.size(); ++layer) {
    if (!step.whole_step_known) step.counted[layer].add(out.router[layer].counted);
    part.router.push_back(out.router[layer].figures);
    part.expert_load.push_back(out.router[layer].load);
  }
  return part;
}

}  // namespace quern
