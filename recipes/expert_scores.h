// SPDX-License-Identifier: MIT
// How much each routed expert has to do with a text: expert-specialised fine-tuning trains those
// that matter most (ESFT, arXiv:2407.01906, section 3.2).
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "quern/data/token_file.h"
#include "quern/layers/model.h"

namespace quern {

// By index of an MoE layer in the model: a score for each expert.
using LayerScores = std::map<i64, std::vector<double>>;

// gate: the mean weight of the expert, 0 where it is not chosen, before routed_scaling_factor.
// token: the share of choices that fall on it; a layer's sum to 1.
struct ExpertScores {
  LayerScores gate, token;
  bool operator==(const ExpertScores&) const = default;
};

struct ScoreOptions {
  // sample: means over the tokens of each document, or each window of a text, and then over these,
  // as the paper has it; token: over all tokens at once, as the published program does.
  enum class Average { sample, token };
  Average average = Average::sample;
  i64 sequence_length = 256;
  i64 micro_batch_sequences = 8;
  i64 tokens = 131072;  // of the file, spread evenly over it; the published program takes as many
  std::function<void()> before_batch;  // what it throws ends the work
};

// Throws ConfigError for a model without routed experts.
ExpertScores score_experts(const Model& model, const TokenFile& file, const ScoreOptions& options);

// The fewest experts of highest score that sum to `threshold` or more, best first, ties to the
// lower index; all of them where the layer's do not reach it.
std::vector<i64> select_experts(const std::vector<double>& scores, double threshold);

// What is trained besides the experts of each layer; the fields of the published files.
struct ExpertSelection {
  std::map<i64, std::vector<i64>> experts;  // by layer, best first
  bool shared_experts = false;
  bool non_expert_modules = false;
  bool operator==(const ExpertSelection&) const = default;
};
ExpertSelection select_experts(const LayerScores& scores, double threshold);

// The published forms: {"token_scores": {"1": {"0": s, ...}, ...}, "gate_scores": {...}} and
// {"experts": {"1": [ids], ...}, "shared_experts": false, "non_expert_modules": false}.
// Throw DataError, naming the file and the key, for what is malformed.
std::string to_json(const ExpertScores& scores);
std::string to_json(const ExpertSelection& selection);
ExpertScores read_expert_scores(const std::filesystem::path& path);
ExpertSelection read_expert_selection(const std::filesystem::path& path);

// Throws ConfigError unless the selection's layers are MoE layers of the model, and its experts are
// theirs.
void check_selection(const ExpertSelection& selection, const ModelConfig& config,
                     const std::string& file);

// "model.layers.3.mlp.experts.7.up_proj.weight" -> layer 3, expert 7; else false.
bool parse_expert_name(const std::string& name, i64& layer, i64& expert);

}  // namespace quern
