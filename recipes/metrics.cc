// SPDX-License-Identifier: MIT
#include "quern/recipes/metrics.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "quern/autograd/error.h"
#include "quern/data/atomic_file.h"

namespace quern {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;  // a line's keys stay in the order they are written here

constexpr std::streamsize kMaxLineBytes = 16 << 20;
constexpr i64 kMaxCompressorsBytes = 1 << 20;

std::string dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

// ---- one object: checked access to its fields ----

class Fields {
 public:
  Fields(const Json& json, ErrorFacts place) : json_(json), place_(std::move(place)) {
    if (!json.is_object()) fail("", "an object");
  }

  // null, which is how a number that is not finite was written, is NaN.
  double number(const char* key) const {
    const Json& value = at(key, "a number");
    if (value.is_null()) return std::numeric_limits<double>::quiet_NaN();
    if (!value.is_number()) fail(key, "a number");
    return value.get<double>();
  }
  bool has(const char* key) const { return json_.contains(key); }
  // As number(), and 0 where an older version did not write the key.
  double number_or_zero(const char* key) const { return json_.contains(key) ? number(key) : 0; }
  i64 count(const char* key) const {
    const Json& value = at(key, "a count");
    if (!value.is_number_unsigned() ||
        value.get<std::uint64_t>() > std::uint64_t(std::numeric_limits<i64>::max())) {
      fail(key, "a count");
    }
    return value.get<i64>();
  }
  std::string text(const char* key) const {
    const Json& value = at(key, "a string");
    if (!value.is_string()) fail(key, "a string");
    return value.get<std::string>();
  }
  const Json& list(const char* key) const {
    const Json& value = at(key, "a list");
    if (!value.is_array()) fail(key, "a list");
    return value;
  }
  const Json& object(const char* key) const {
    const Json& value = at(key, "an object");
    if (!value.is_object()) fail(key, "an object");
    return value;
  }
  const ErrorFacts& place() const { return place_; }

  [[noreturn]] void fail(const char* key, const char* expected) const {
    ErrorFacts facts = place_;
    if (*key != '\0') facts.key = facts.key.empty() ? key : facts.key + "." + key;
    facts.expected = expected;
    throw DataError(facts);
  }

 private:
  const Json& at(const char* key, const char* expected) const {
    const auto found = json_.find(key);
    if (found == json_.end()) fail(key, expected);
    return *found;
  }

  const Json& json_;
  ErrorFacts place_;
};

// ---- structs to lines ----

// {"max_load": [1.2, 1.4], ...}: a list with a number for each layer.
Json to_json(const std::vector<RouterMetrics>& router) {
  Json json = Json::object();
  if (router.empty()) return json;
  for (const RouterMetric& metric : kRouterMetrics) {
    Json& column = json[metric.name] = Json::array();
    for (const RouterMetrics& layer : router) {
      column.push_back(std::round(layer.*metric.value * 1e4) / 1e4);
    }
  }
  return json;
}

Json to_json(const StepMetrics& m) {
  Json load = Json::array();
  for (const std::vector<double>& layer : m.expert_load) {
    Json& row = load.emplace_back(Json::array());
    for (const double x : layer) row.push_back(std::round(x * 1000) / 1000);
  }
  Json json{{"type", "step"},
            {"step", m.step},
            {"tokens_seen", m.tokens_seen},
            {"loss", m.loss},
            {"aux_loss", m.aux_loss},
            {"lr", m.lr},
            {"grad_norm", m.grad_norm},
            {"seconds", m.seconds},
            {"data_s", m.data_s},
            {"forward_backward_s", m.forward_backward_s},
            {"optimizer_s", m.optimizer_s},
            {"tokens_per_s", m.tokens_per_s},
            {"share_of_peak", m.share_of_peak},
            {"elapsed_s", m.elapsed_s},
            {"dead_experts", m.dead_experts},
            {"load_max_over_mean", m.load_max_over_mean},
            {"memory_bytes", m.memory_bytes},
            {"expert_load", std::move(load)},
            {"router", to_json(m.router)}};
  if (m.nextn_loss != 0) json["nextn_loss"] = m.nextn_loss;
  return json;
}

Json to_json(const EvalMetrics& m) {
  Json domains = Json::array();
  for (const EvalMetrics::Domain& domain : m.domains) {
    domains.push_back(Json{{"name", domain.name},
                           {"bits_per_byte", domain.bits_per_byte},
                           {"bytes", domain.bytes},
                           {"tokens", domain.tokens}});
  }
  return {{"type", "eval"},
          {"step", m.step},
          {"bits_per_byte", m.bits_per_byte},
          {"loss", m.loss},
          {"domains", std::move(domains)}};
}

Json to_json(const SampleMetrics& m) {
  return {{"type", "sample"}, {"step", m.step}, {"prompt", m.prompt}, {"text", m.text}};
}

Json to_json(const EventMetrics& m) {
  return {{"type", "event"}, {"step", m.step}, {"name", m.name}, {"detail", m.detail}};
}

Json to_json(const PhaseMetrics& m) {
  return {{"type", "phase"}, {"step", m.step}, {"name", m.name}, {"seconds", m.seconds}};
}

Json to_json(const EnvironmentMetrics& m) {
  Json rows = Json::array();
  for (const auto& [what, value] : m.rows) rows.push_back(Json{{"what", what}, {"value", value}});
  return {{"type", "environment"}, {"step", m.step}, {"rows", std::move(rows)}};
}

// ---- lines to structs ----

double number_or_nan(const Json& x) {
  return x.is_null() ? std::numeric_limits<double>::quiet_NaN() : x.get<double>();
}

std::vector<std::vector<double>> expert_load_of(const Fields& line) {
  std::vector<std::vector<double>> load;
  for (const Json& layer : line.list("expert_load")) {
    if (!layer.is_array()) line.fail("expert_load", "a list of lists");
    std::vector<double>& row = load.emplace_back();
    for (const Json& x : layer) {
      if (!x.is_number() && !x.is_null()) line.fail("expert_load", "numbers");
      row.push_back(number_or_nan(x));
    }
  }
  return load;
}

std::vector<RouterMetrics> router_of(const Fields& line) {
  std::vector<RouterMetrics> router;
  if (!line.has("router")) return router;
  const Json& json = line.object("router");
  for (const RouterMetric& metric : kRouterMetrics) {
    const auto column = json.find(metric.name);
    if (column == json.end()) continue;
    if (!column->is_array()) line.fail("router", "lists of numbers");
    router.resize(std::max(router.size(), column->size()));
    for (std::size_t layer = 0; layer < column->size(); ++layer) {
      const Json& x = (*column)[layer];
      if (!x.is_number() && !x.is_null()) line.fail("router", "lists of numbers");
      router[layer].*metric.value = number_or_nan(x);
    }
  }
  return router;
}

StepMetrics step_of(const Fields& line) {
  return {.step = line.count("step"),
          .tokens_seen = line.count("tokens_seen"),
          .loss = line.number("loss"),
          .aux_loss = line.number("aux_loss"),
          .nextn_loss = line.number_or_zero("nextn_loss"),
          .lr = line.number("lr"),
          .grad_norm = line.number("grad_norm"),
          .seconds = line.number("seconds"),
          .data_s = line.number_or_zero("data_s"),
          .forward_backward_s = line.number_or_zero("forward_backward_s"),
          .optimizer_s = line.number_or_zero("optimizer_s"),
          .tokens_per_s = line.number("tokens_per_s"),
          .share_of_peak = line.number("share_of_peak"),
          .elapsed_s = line.number("elapsed_s"),
          .expert_load = expert_load_of(line),
          .router = router_of(line),
          .dead_experts = line.count("dead_experts"),
          .load_max_over_mean = line.number("load_max_over_mean"),
          .memory_bytes = std::size_t(line.count("memory_bytes"))};
}

EvalMetrics eval_of(const Fields& line) {
  EvalMetrics m{.step = line.count("step"),
                .bits_per_byte = line.number("bits_per_byte"),
                .loss = line.number("loss")};
  for (const Json& json : line.list("domains")) {
    const Fields domain(json, line.place());
    m.domains.push_back({.name = domain.text("name"),
                         .bits_per_byte = domain.number("bits_per_byte"),
                         .bytes = domain.count("bytes"),
                         .tokens = domain.count("tokens")});
  }
  return m;
}

EnvironmentMetrics environment_of(const Fields& line) {
  EnvironmentMetrics m{.step = line.count("step")};
  for (const Json& json : line.list("rows")) {
    const Fields row(json, line.place());
    m.rows.emplace_back(row.text("what"), row.text("value"));
  }
  return m;
}

void add_line(const Fields& line, RunHistory& history) {
  const std::string type = line.text("type");
  if (type == "step") {
    StepMetrics step = step_of(line);
    // The loads of every step of a long run would not fit memory; see RunHistory.
    if (!step.expert_load.empty()) {
      history.loads.add(step.step, step.expert_load);
      auto older = history.steps.rbegin();
      while (older != history.steps.rend() && older->expert_load.empty()) ++older;
      if (older != history.steps.rend()) {
        older->expert_load = {};
        older->router = {};
      }
    }
    history.steps.push_back(std::move(step));
  } else if (type == "eval") {
    history.evals.push_back(eval_of(line));
  } else if (type == "sample") {
    history.samples.push_back(
        {.step = line.count("step"), .prompt = line.text("prompt"), .text = line.text("text")});
  } else if (type == "event") {
    history.events.push_back(
        {.step = line.count("step"), .name = line.text("name"), .detail = line.text("detail")});
  } else if (type == "phase") {
    history.phases.push_back(
        {.step = line.count("step"), .name = line.text("name"), .seconds = line.number("seconds")});
  } else if (type == "environment") {
    history.environments.push_back(environment_of(line));
  }
}

// Calls visit(text, fields) for each line. The last one may be unfinished, then it is left out.
template <class Visit>
void for_each_line(const fs::path& path, Visit&& visit) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw DataError({.file = path.string(), .what = "cannot be opened"});
  std::vector<char> buffer(kMaxLineBytes);
  for (int number = 1; in.getline(buffer.data(), kMaxLineBytes); ++number) {
    if (in.eof()) return;  // no newline: the writer was stopped in the middle
    const std::string_view text(buffer.data(), std::size_t(in.gcount() - 1));
    const ErrorFacts place{.file = path.string(), .line = number};
    const Json json = Json::parse(text, nullptr, false);
    if (json.is_discarded()) {
      if (in.peek() == std::ifstream::traits_type::eof()) return;
      ErrorFacts facts = place;
      facts.what = "is not a line of JSON";
      throw DataError(facts);
    }
    visit(text, Fields(json, place));
  }
  if (!in.eof()) throw DataError({.file = path.string(), .what = "has a line that is too long"});
}

// Lines up to resume_step, written beside the log and renamed over it.
void cut_back(const fs::path& path, i64 resume_step) {
  PendingFile pending(path);
  std::ofstream out(pending.temporary(), std::ios::binary);
  if (resume_step > 0 && fs::exists(path)) {
    for_each_line(path, [&](std::string_view text, const Fields& line) {
      if (line.count("step") <= resume_step) out << text << '\n';
    });
  }
  out.close();
  if (!out) throw IoError({.file = path.string(), .what = "cannot be written"});
  pending.publish();
}

CompressorBaseline baseline_of(const std::string& name, const Json& json, ErrorFacts place) {
  place.key = name;
  const Fields fields(json, std::move(place));
  const CompressorBaseline baseline{.name = name,
                                    .bytes = fields.count("bytes"),
                                    .gzip_bytes = fields.count("gzip"),
                                    .xz_bytes = fields.count("xz")};
  if (baseline.bytes == 0) fields.fail("bytes", "at least 1");
  return baseline;
}

}  // namespace

MetricsLog::MetricsLog(fs::path path, i64 resume_step)
    : out_((cut_back(path, resume_step), std::move(path))) {}

void MetricsLog::append(const StepMetrics& metrics) { write_line(dump(to_json(metrics))); }
void MetricsLog::append(const EvalMetrics& metrics) { write_line(dump(to_json(metrics))); }
void MetricsLog::append(const SampleMetrics& metrics) { write_line(dump(to_json(metrics))); }
void MetricsLog::append(const EventMetrics& metrics) { write_line(dump(to_json(metrics))); }
void MetricsLog::append(const PhaseMetrics& metrics) { write_line(dump(to_json(metrics))); }
void MetricsLog::append(const EnvironmentMetrics& metrics) { write_line(dump(to_json(metrics))); }

void MetricsLog::write_line(const std::string& line) { out_.append(line + "\n"); }

RunHistory read_metrics(const fs::path& path) {
  RunHistory history;
  for_each_line(path, [&](std::string_view, const Fields& line) { add_line(line, history); });
  return history;
}

std::optional<CompressorBaselines> read_compressors(const fs::path& path) {
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return std::nullopt;
  const ErrorFacts place{.file = path.string()};
  const Json json = Json::parse(read_file(path, kMaxCompressorsBytes), nullptr, false);
  if (json.is_discarded()) throw DataError({.file = path.string(), .what = "is not JSON"});
  const Fields fields(json, place);
  CompressorBaselines baselines;
  for (const auto& [name, sizes] : fields.object("sources").items()) {
    baselines.domains.push_back(baseline_of(name, sizes, place));
  }
  baselines.all = baseline_of("all", fields.object("all"), place);
  return baselines;
}

}  // namespace quern
