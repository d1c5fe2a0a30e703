// SPDX-License-Identifier: MIT
#include "quern/optim/batch_schedule.h"

#include <algorithm>
#include <limits>

#include "quern/autograd/error.h"

namespace quern {
namespace {

i64 ceil_div(i64 a, i64 b) { return (a + b - 1) / b; }

void require(bool holds, const char* key, const std::string& expected, i64 actual) {
  if (!holds) {
    throw ConfigError({.key = key, .expected = expected, .actual = std::to_string(actual)});
  }
}

void validate(const BatchScheduleOptions& o) {
  constexpr i64 kMaxSequences = i64{1} << 24;  // bounds the list of stages, and the products below
  const std::string multiple = "a multiple of " + std::to_string(o.multiple);
  require(o.multiple >= 1, "multiple", "at least 1", o.multiple);
  require(o.seq >= 1 && o.seq <= kMaxSequences, "seq", "1 to 2^24", o.seq);
  require(o.start_sequences >= 1, "start_sequences", "at least 1", o.start_sequences);
  require(o.start_sequences % o.multiple == 0, "start_sequences", multiple, o.start_sequences);
  require(o.final_sequences >= o.start_sequences, "final_sequences",
          "at least start_sequences, " + std::to_string(o.start_sequences), o.final_sequences);
  require(o.final_sequences <= kMaxSequences, "final_sequences", "at most 2^24", o.final_sequences);
  require(o.final_sequences % o.multiple == 0, "final_sequences", multiple, o.final_sequences);
  const i64 most = std::numeric_limits<i64>::max() / 2 / o.final_sequences;
  require(o.rampup_tokens >= 0 && o.rampup_tokens <= most, "rampup_tokens",
          "0 to " + std::to_string(most), o.rampup_tokens);
}

}  // namespace

BatchSchedule::BatchSchedule(const BatchScheduleOptions& o) : seq_(o.seq) {
  validate(o);
  const i64 growth = o.final_sequences - o.start_sequences;
  Stage stage{.sequences = o.rampup_tokens == 0 ? o.final_sequences : o.start_sequences};
  for (;;) {
    stages_.push_back(stage);
    if (stage.sequences >= o.final_sequences) return;
    // The size grows at the first step that has seen the tokens its next multiple asks for.
    const i64 next = stage.sequences + o.multiple;
    const i64 due = ceil_div((next - o.start_sequences) * o.rampup_tokens, growth);
    const i64 seen = stage.first_sample * o.seq;
    const i64 steps = ceil_div(due - seen, stage.sequences * o.seq);
    stage.first_step += steps;
    stage.first_sample += steps * stage.sequences;
    const i64 tokens = std::min(stage.first_sample * o.seq, o.rampup_tokens);
    const i64 grown = growth * tokens / o.rampup_tokens;
    stage.sequences = (o.start_sequences + grown) / o.multiple * o.multiple;
  }
}

const BatchSchedule::Stage& BatchSchedule::stage(i64 step) const {
  QUERN_ASSERT(step >= 0);
  const auto after = std::upper_bound(stages_.begin(), stages_.end(), step,
                                      [](i64 s, const Stage& x) { return s < x.first_step; });
  return *(after - 1);
}

i64 BatchSchedule::first_sample(i64 step) const {
  const Stage& s = stage(step);
  return s.first_sample + (step - s.first_step) * s.sequences;
}

std::string BatchSchedule::str() const {
  std::string text;
  for (const Stage& s : stages_) {
    text += "from step " + std::to_string(s.first_step) + ": " + std::to_string(s.sequences) +
            " sequences of " + std::to_string(seq_) + " tokens (first sample " +
            std::to_string(s.first_sample) + ")\n";
  }
  return text;
}

}  // namespace quern
