// SPDX-License-Identifier: MIT
// How a run looks at its model: evaluations, samples, and what it has become.
#include "quern/data/atomic_file.h"
#include "quern/recipes/before_after.h"
#include "quern/recipes/describe.h"
#include "quern/recipes/evaluate.h"
#include "quern/recipes/generate.h"
#include "quern/recipes/internal/run_loop.h"
#include "quern/recipes/probe.h"

namespace quern {
namespace {

constexpr char kBefore[] = "before.json";
constexpr i64 kMaxBefore = 64 << 20;

}  // namespace

void Run::do_evaluate(i64 max_tokens) {
  const i64 step = trainer_.progress().step;
  if (data_.validation.empty() || evaluated_.contains(step)) return;
  EvaluateOptions options{recipe_.data.sequence_length, recipe_.train.micro_batch_sequences,
                          max_tokens};
  options.before_batch = [this] { stop_here(); };
  options.ranks = ranks_;
  EvalMetrics m;
  timed("evaluation", [&] { m = evaluate(trainer_.model(), data_.validation, options); });
  m.step = step;
  evaluated_[step] = figure_of_merit(m, *data_.validation[0]);
  log(m);
  line_.eval(m);
}

// What the run is to improve on, in full as at its end.
void Run::look_before() {
  do_evaluate(0);
  write_samples();
  const std::string before = standing();
  if (leads_) write_file_atomically(folder_ / kBefore, before);
}

std::string Run::standing() {
  std::string text;
  timed("evaluation", [&] {
    text = standing_of(trainer_.model(), recipe_, data_, folder_, [this] { stop_here(); });
  });
  return text;
}

void Run::compare() {
  if (!std::filesystem::exists(folder_ / kBefore)) return;
  const std::string after = standing();
  if (!leads_) return;
  RunCost cost{0, count_parameters(recipe_.model).total, elapsed_before_ + seconds_now() - start_,
               peak_resident_bytes()};
  for (const Parameter* p : trainer_.trained()) cost.trained_parameters += p->value.numel();
  write_before_after(folder_, read_file(folder_ / kBefore, kMaxBefore), after, recipe_, cost);
}

void Run::write_samples() {
  if (!data_.tokenizer) return;
  const i64 step = trainer_.progress().step;
  for (const std::string& prompt : recipe_.train.sample_prompts) {
    if (sampled_.contains({step, prompt})) continue;
    GenerateOptions options;
    options.tokens = recipe_.train.sample_tokens;
    options.seed = std::uint64_t(recipe_.train.seed);
    const bool chat = data_.sampler->sources()[0].file->has_mask();
    const PromptTokens tokens =
        chat ? question_tokens(*data_.tokenizer, prompt, recipe_.data.chat_template)
             : prompt_tokens(*data_.tokenizer, prompt);
    std::string text;
    timed("sampling", [&] {
      text = generate(trainer_.model(), *data_.tokenizer, {tokens}, options,
                      [this](size_t, const std::string&) { stop_here(); })[0]
                 .text;
    });
    log(SampleMetrics{step, prompt, text});
  }
}

}  // namespace quern
