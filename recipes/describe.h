// SPDX-License-Identifier: MIT
// A model and a run in words, for --dry-run, `quern inspect` and the report.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "quern/autograd/kernels/types.h"
#include "quern/recipes/recipe.h"

namespace quern {

using Rows = std::vector<std::pair<std::string, std::string>>;  // what, value

struct Figure {
  std::string what;  // indented where it is a part of the one above
  double value = 0;  // NaN: there is only the text
  std::string text;  // as people read it
};
using Figures = std::vector<Figure>;

Figure count_figure(std::string what, double count);
Figure bytes_figure(std::string what, double bytes);
Figure duration_figure(std::string what, double seconds);
Figure text_figure(std::string what, std::string text);

Figures describe_model(const ModelConfig& config, i64 sequence_length);

// The losses that are added to that of the tokens, with their factors and over what they are
// counted: "expert 0.003, device 0.05 of each sequence". None: "none".
std::string auxiliary_losses(const ModelConfig& config);

Rows rows_of(const Figures& figures);
std::string table_of(const Figures& figures);  // a line each
// An object of plain numbers, {"training_flops_per_token": 26900000, ...}; texts stay texts.
std::string json_of(const Figures& figures);

// Bytes that training holds at once: of parameters, exactly; gradients, moments and lane sums of so
// many trained numbers; what activations take beside these is estimated from the shapes. `teacher`
// is for who knows its shape: estimate_memory() leaves it 0.
struct MemoryEstimate {
  i64 parameters = 0, gradients = 0, moments = 0, lane_sums = 0, activations = 0, teacher = 0;
  i64 total() const { return parameters + gradients + moments + lane_sums + activations + teacher; }
};
MemoryEstimate estimate_memory(const Recipe& recipe, i64 trained);
// What finetune.distill_from adds: the weights of a model of this shape, exactly, and an estimate
// of what learning from its logits takes.
i64 teacher_bytes(const Recipe& recipe, const ModelConfig& teacher);

// Whether parameters, and what training holds of those that are known to be trained, are no more
// than this machine's memory: activations and all else come on top.
bool fits_memory(const Recipe& recipe);
// Throws ConfigError when it does not fit.
void check_memory(const Recipe& recipe);

}  // namespace quern
