// SPDX-License-Identifier: MIT
// The published files of expert scores and selections.
#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "quern/data/atomic_file.h"
#include "quern/data/internal/bounded_json.h"
#include "quern/data/internal/json_checks.h"
#include "quern/recipes/expert_scores.h"

namespace quern {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr i64 kMaxBytes = 64 << 20;
constexpr i64 kMost = 1 << 20;  // layers or experts

i64 number_of(const JsonChecks& checks, const std::string& where, const std::string& text) {
  i64 number = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error == std::errc() && end == text.data() + text.size() && number >= 0 && number < kMost) {
    return number;
  }
  checks.refuse(JsonChecks::path(where, clipped(text)), "the number of a layer or expert", text);
}

json parse(const std::filesystem::path& path) {
  return parse_bounded_json(read_file(path, kMaxBytes), path.string());
}

ordered_json table_of(const LayerScores& scores) {
  ordered_json table = ordered_json::object();
  for (const auto& [layer, of_layer] : scores) {
    ordered_json& row = table[std::to_string(layer)] = ordered_json::object();
    for (size_t e = 0; e < of_layer.size(); ++e) row[std::to_string(e)] = of_layer[e];
  }
  return table;
}

std::vector<double> read_row(const JsonChecks& checks, const std::string& where, const json& row) {
  if (!row.is_object() || row.empty()) checks.refuse(where, "an object of experts", row);
  std::vector<double> scores(row.size(), -1);
  for (const auto& [name, score] : row.items()) {
    const i64 expert = number_of(checks, where, name);
    if (expert >= i64(scores.size())) {
      checks.refuse_for(where + "." + std::to_string(expert), "experts before it have no score");
    }
    if (!score.is_number() || score.get<double>() < 0) {
      checks.refuse(where + "." + std::to_string(expert), "a score of 0 or more", score);
    }
    scores[size_t(expert)] = score.get<double>();
  }
  return scores;
}

LayerScores read_table(const JsonChecks& checks, const json& file, const char* key) {
  LayerScores scores;
  const json& table = checks.member(file, "", key);
  if (!table.is_object()) checks.refuse(key, "an object of layers", table);
  for (const auto& [name, row] : table.items()) {
    const i64 layer = number_of(checks, key, name);
    scores[layer] = read_row(checks, JsonChecks::path(key, std::to_string(layer)), row);
  }
  return scores;
}

// Both tables are to be of one model.
void refuse_two_models(const JsonChecks& checks, const ExpertScores& scores) {
  const auto alike = [](const auto& a, const auto& b) {
    return a.first == b.first && a.second.size() == b.second.size();
  };
  if (std::ranges::equal(scores.gate, scores.token, alike)) return;
  checks.refuse_for("gate_scores", "has other layers or experts than token_scores");
}

bool read_switch(const JsonChecks& checks, const json& file, const char* key) {
  const json& value = checks.member(file, "", key);
  if (!value.is_boolean()) checks.refuse(key, "true or false", value);
  return value.get<bool>();
}

void refuse_no_object(const JsonChecks& checks, const json& file) {
  if (!file.is_object()) checks.refuse("", "an object", file);
}

template <class F>
auto with_remedy(F&& f) {
  try {
    return f();
  } catch (const DataError& error) {
    throw DataError(with_hint(error.facts(), "`quern select-experts` writes such files"));
  }
}

}  // namespace

std::string to_json(const ExpertScores& scores) {
  return ordered_json{{"token_scores", table_of(scores.token)},
                      {"gate_scores", table_of(scores.gate)}}
             .dump(1) +
         "\n";
}

std::string to_json(const ExpertSelection& selection) {
  ordered_json experts = ordered_json::object();
  for (const auto& [layer, ids] : selection.experts) experts[std::to_string(layer)] = ids;
  return ordered_json{{"experts", experts},
                      {"shared_experts", selection.shared_experts},
                      {"non_expert_modules", selection.non_expert_modules}}
             .dump() +
         "\n";
}

ExpertScores read_expert_scores(const std::filesystem::path& path) {
  return with_remedy([&] {
    const JsonChecks checks{path.string()};
    const json file = parse(path);
    refuse_no_object(checks, file);
    ExpertScores scores{.gate = read_table(checks, file, "gate_scores"),
                        .token = read_table(checks, file, "token_scores")};
    refuse_two_models(checks, scores);
    return scores;
  });
}

ExpertSelection read_expert_selection(const std::filesystem::path& path) {
  return with_remedy([&] {
    const JsonChecks checks{path.string()};
    const json file = parse(path);
    refuse_no_object(checks, file);
    ExpertSelection selection{
        .shared_experts = read_switch(checks, file, "shared_experts"),
        .non_expert_modules = read_switch(checks, file, "non_expert_modules")};
    const json& experts = checks.member(file, "", "experts");
    if (!experts.is_object()) checks.refuse("experts", "an object of layers", experts);
    for (const auto& [layer, ids] : experts.items()) {
      const std::string where = "experts." + clipped(layer);
      if (!ids.is_array()) checks.refuse(where, "a list of experts", ids);
      std::vector<i64>& out = selection.experts[number_of(checks, "experts", layer)];
      for (const json& id : ids) {
        if (!id.is_number_integer()) checks.refuse(where, "numbers of experts", id);
        out.push_back(id.get<i64>());
      }
    }
    return selection;
  });
}

}  // namespace quern
