// SPDX-License-Identifier: MIT
// What a run measures, and metrics.jsonl: one JSON object a line, appended while the run trains and
// cut back to the checkpoint when it resumes.
#pragma once

#include <cstddef>
#include <filesystem>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "quern/autograd/kernels/types.h"
#include "quern/data/appended_file.h"
#include "quern/recipes/load_history.h"

namespace quern {

inline constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();

// What the router of one MoE layer did in a step. Loads are over the mean, so that 1 is even.
struct RouterMetrics {
  double max_load = 0, min_load = 0;
  double load_entropy = 0;  // nats; at best log(experts)
  double dead = 0;          // experts without a token
  double gate_entropy = 0;  // nats, the mean over tokens
  double weight_sum = 0;    // of a token's chosen experts, the mean
  double devices = 0;       // that hold a token's experts, the mean
  double dropped = 0;       // the share of copies that found no room
  double expert_loss = 0, device_loss = 0, communication_loss = 0, z_loss = 0;  // without alphas
};
// Their names, in metrics.jsonl and wherever else a run shows them.
struct RouterMetric {
  const char* name;
  double RouterMetrics::*value;
};
inline constexpr RouterMetric kRouterMetrics[] = {
    {"max_load", &RouterMetrics::max_load},
    {"min_load", &RouterMetrics::min_load},
    {"load_entropy", &RouterMetrics::load_entropy},
    {"dead", &RouterMetrics::dead},
    {"gate_entropy", &RouterMetrics::gate_entropy},
    {"weight_sum", &RouterMetrics::weight_sum},
    {"devices", &RouterMetrics::devices},
    {"dropped", &RouterMetrics::dropped},
    {"expert_loss", &RouterMetrics::expert_loss},
    {"device_loss", &RouterMetrics::device_loss},
    {"communication_loss", &RouterMetrics::communication_loss},
    {"z_loss", &RouterMetrics::z_loss},
};

struct StepMetrics {
  i64 step = 0;         // steps done, this one included
  i64 tokens_seen = 0;  // since the run began
  double loss = 0;      // nats per token, without aux_loss
  double aux_loss = 0;
  double nextn_loss = 0;  // of multi-token prediction, nats per token; 0: there is none
  double lr = 0;
  double grad_norm = 0;  // before clipping
  double seconds = 0;    // of this step; of them
  double data_s = 0;     //   waiting for the batch
  double forward_backward_s = 0;
  double optimizer_s = 0;  // with the gradient norm; all three are 0 in logs of older versions
  double tokens_per_s = 0;
  double share_of_peak = 0;  // of the measured peak of products, 0 to 1; 0: unknown
  double elapsed_s = 0;      // of training, over all resumed pieces
  // [MoE layers][experts]: an expert's assignments over the mean, so that the mean is 1. Empty when
  // the model is dense. The log keeps three decimals.
  std::vector<std::vector<double>> expert_load;
  std::vector<RouterMetrics> router;  // [MoE layers]; four decimals, {} in logs of older versions
  i64 dead_experts = 0;               // without a single token
  double load_max_over_mean = 0;      // of the layer where it is largest
  std::size_t memory_bytes = 0;
};

// The loss of tokens that have equally many before them, in nats.
struct PositionLoss {
  i64 tokens = 0;
  double loss = 0;
  double standard_error = kUnknown;
};

struct EvalMetrics {
  i64 step = 0;
  double bits_per_byte = 0;
  double loss = 0;  // nats per token
  struct Domain {
    std::string name;
    double bits_per_byte = 0;
    i64 bytes = 0;
    i64 tokens = 0;
    double standard_error = kUnknown;  // of bits_per_byte
  };
  std::vector<Domain> domains;
  // Not in logs:
  double standard_error = kUnknown;       // of bits_per_byte
  std::vector<PositionLoss> by_position;  // [i]: with i + 1 tokens before them
};

struct SampleMetrics {
  i64 step = 0;
  std::string prompt;
  std::string text;  // what the model wrote after the prompt
};

// Time between steps: "evaluation", "saving", "sampling", "reporting".
struct PhaseMetrics {
  i64 step = 0;
  std::string name;
  double seconds = 0;
};

// Where a piece of the run, begun or resumed, went on after `step`.
struct EnvironmentMetrics {
  i64 step = 0;
  std::vector<std::pair<std::string, std::string>> rows;  // what, value
};

// Anything else worth a line: "resumed", "interrupted", "skipped", "checkpoint skipped",
// "stopped early".
struct EventMetrics {
  i64 step = 0;
  std::string name;
  std::string detail;
};

struct RunHistory {
  std::vector<StepMetrics> steps;  // only the last one that has a load of experts keeps it
  std::vector<EvalMetrics> evals;
  std::vector<SampleMetrics> samples;
  std::vector<EventMetrics> events;
  std::vector<PhaseMetrics> phases;
  std::vector<EnvironmentMetrics> environments;
  LoadHistory loads;
};

class MetricsLog {
 public:
  // resume_step 0 starts an empty log; otherwise lines of later steps, and a line the last run did
  // not finish, are dropped. Throws IoError; DataError when the file is not a metrics log.
  MetricsLog(std::filesystem::path path, i64 resume_step);

  const std::filesystem::path& path() const { return out_.path(); }
  // Appends a line and hands it to the system. Bytes that are not UTF-8 become U+FFFD, numbers that
  // are not finite become null. Throws IoError.
  void append(const StepMetrics& metrics);
  void append(const EvalMetrics& metrics);
  void append(const SampleMetrics& metrics);
  void append(const EventMetrics& metrics);
  void append(const PhaseMetrics& metrics);
  void append(const EnvironmentMetrics& metrics);

 private:
  void write_line(const std::string& line);

  AppendedFile out_;
};

// What a log holds; null comes back as NaN, an unfinished last line and unknown types are passed
// over. Throws DataError, with the line, on anything else.
RunHistory read_metrics(const std::filesystem::path& path);

// What general-purpose compressors make of a text, in bytes.
struct CompressorBaseline {
  std::string name;
  i64 bytes = 0;
  i64 gzip_bytes = 0;  // gzip -9
  i64 xz_bytes = 0;    // xz -9e

  double gzip_bits_per_byte() const { return 8 * double(gzip_bytes) / double(bytes); }
  double xz_bits_per_byte() const { return 8 * double(xz_bytes) / double(bytes); }
};

struct CompressorBaselines {
  std::vector<CompressorBaseline> domains;
  CompressorBaseline all;  // every domain, compressed as one file
};

// {"sources": {"<domain>": {"bytes": .., "gzip": .., "xz": ..}}, "all": {..}}; nothing when there
// is no such file. Throws DataError.
std::optional<CompressorBaselines> read_compressors(const std::filesystem::path& path);

}  // namespace quern
