// SPDX-License-Identifier: MIT
#include "quern/recipes/before_after.h"

#include <sys/resource.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>

#include "quern/data/atomic_file.h"
#include "quern/recipes/expert_scores.h"
#include "quern/recipes/internal/units.h"

namespace quern {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr char kFile[] = "before_after.json";
constexpr i64 kUsageTokens = 16384;  // of each validation file
constexpr i64 kMaxBytes = 64 << 20;

// A file's sources by their names: what a reader knows it by.
std::string name_of(const TokenFile& file) {
  std::string name;
  for (const TokenSource& s : file.sources()) name += (name.empty() ? "" : ", ") + s.name;
  return name;
}

ordered_json expert_use(const Model& model, const Recipe& recipe, const RunInputs& data,
                        const std::function<void()>& stop_here) {
  ordered_json all = ordered_json::array();
  if (model.config.n_routed_experts == 0) return all;
  const ScoreOptions options{.average = ScoreOptions::Average::token,
                             .sequence_length = recipe.data.sequence_length,
                             .tokens = kUsageTokens,
                             .before_batch = stop_here};
  for (const auto& file : data.validation) {
    const ExpertScores scores = score_experts(model, *file, options);
    ordered_json layers = ordered_json::object();
    for (const auto& [layer, shares] : scores.token) layers[std::to_string(layer)] = shares;
    all.push_back({{"text", name_of(*file)}, {"layers", layers}});
  }
  return all;
}

ordered_json answers(const Model& model, const Recipe& recipe, const RunInputs& data,
                     const std::function<void()>& stop_here) {
  ordered_json all = ordered_json::array();
  const MultipleChoiceOptions options{.chat = data.sampler->sources()[0].file->has_mask(),
                                      .chat_template = recipe.data.chat_template,
                                      .before_batch = stop_here};
  for (const auto& [file, questions] : data.questions) {
    const MultipleChoiceMetrics m = answer_questions(model, *data.tokenizer, questions, options);
    all.push_back({{"file", fs::path(file).filename().string()},
                   {"questions", m.questions},
                   {"accuracy", m.accuracy},
                   {"standard_error", m.standard_error},
                   {"chance", m.chance}});
  }
  return all;
}

ordered_json domains(const EvalMetrics& m) {
  ordered_json all = ordered_json::array();
  for (const EvalMetrics::Domain& d : m.domains) {
    all.push_back({{"text", d.name}, {"bits_per_byte", d.bits_per_byte}, {"bytes", d.bytes}});
  }
  return all;
}

std::string percent(double share) { return internal::fixed_text(100 * share, 1) + " %"; }

// "5: 24.1 %, 2: 13.0 %, 11: 9.2 %", the three that are used most.
std::string most_used(const ordered_json& shares) {
  std::vector<size_t> order(shares.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, std::greater<>(),
                           [&](size_t e) { return shares[e].get<double>(); });
  std::string text;
  for (size_t i = 0; i < std::min<size_t>(3, order.size()); ++i) {
    text += (i > 0 ? ", " : "") + std::to_string(order[i]) + ": " +
            percent(shares[order[i]].get<double>());
  }
  return text;
}

using Rows = std::vector<std::array<std::string, 3>>;

// f(row before, row after) for the rows of a list that both have.
template <class F>
void for_pairs(const ordered_json& both, const char* list, F&& f) {
  const ordered_json &a = both["before"][list], &b = both["after"][list];
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) f(a[i], b[i]);
}

Rows rows_of(const ordered_json& both) {
  Rows rows;
  for_pairs(both, "evaluation", [&](const auto& a, const auto& b) {
    rows.push_back({"bits per byte: " + a["text"].template get<std::string>(),
                    internal::fixed_text(a["bits_per_byte"].template get<double>(), 3),
                    internal::fixed_text(b["bits_per_byte"].template get<double>(), 3)});
  });
  for_pairs(both, "multiple_choice", [&](const auto& a, const auto& b) {
    rows.push_back({"right answers: " + a["file"].template get<std::string>(),
                    percent(a["accuracy"].template get<double>()),
                    percent(b["accuracy"].template get<double>())});
  });
  for_pairs(both, "samples", [&](const auto& a, const auto& b) {
    rows.push_back({"after: " + a["prompt"].template get<std::string>(),
                    a["text"].template get<std::string>(), b["text"].template get<std::string>()});
  });
  for_pairs(both, "expert_use", [&](const auto& a, const auto& b) {
    for (const auto& [layer, shares] : a["layers"].items()) {
      rows.push_back({"experts of layer " + layer + ": " + a["text"].template get<std::string>(),
                      most_used(shares), most_used(b["layers"][layer])});
    }
  });
  const double trained = both["trained_parameters"], all = both["parameters"];
  rows.push_back({"trained parameters", "",
                  internal::short_text(trained) + " (" + percent(trained / all) + ")"});
  rows.push_back({"time of training", "", internal::duration_text(both["seconds"].get<double>())});
  rows.push_back(
      {"peak memory", "", internal::bytes_text(both["peak_memory_bytes"].get<std::size_t>())});
  return rows;
}

}  // namespace

std::string standing_of(const Model& model, const Recipe& recipe, const RunInputs& data,
                        const fs::path& run, const std::function<void()>& stop_here) {
  const RunHistory history = read_metrics(run / "metrics.jsonl");
  ordered_json standing{
      {"evaluation", history.evals.empty() ? ordered_json::array() : domains(history.evals.back())},
      {"multiple_choice", answers(model, recipe, data, stop_here)},
      {"samples", ordered_json::array()},
      {"expert_use", expert_use(model, recipe, data, stop_here)}};
  for (const SampleMetrics& s : history.samples) {
    if (s.step != history.samples.back().step) continue;
    standing["samples"].push_back({{"prompt", s.prompt}, {"text", s.text}});
  }
  return standing.dump(1, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

void write_before_after(const fs::path& run, const std::string& before, const std::string& after,
                        const Recipe& recipe, const RunCost& cost) {
  const ordered_json both{
      {"method", recipe.finetune.method},      {"trained_parameters", cost.trained_parameters},
      {"parameters", cost.parameters},         {"seconds", cost.seconds},
      {"peak_memory_bytes", cost.peak_memory}, {"before", ordered_json::parse(before)},
      {"after", ordered_json::parse(after)}};
  write_file_atomically(run / kFile,
                        both.dump(1, ' ', false, ordered_json::error_handler_t::replace) + "\n");
}

Rows before_after_rows(const fs::path& run) {
  if (!fs::exists(run / kFile)) return {};
  try {
    return rows_of(ordered_json::parse(read_file(run / kFile, kMaxBytes)));
  } catch (const nlohmann::json::exception&) {  // not ours, or edited
    return {};
  }
}

std::size_t peak_resident_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return std::size_t(usage.ru_maxrss) * 1024;
}

}  // namespace quern
