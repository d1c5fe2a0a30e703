// SPDX-License-Identifier: MIT
#include "quern/recipes/tfevents.h"

#include <tfevents.pb.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <chrono>
#include <cstdint>
#include <string_view>

#include "quern/autograd/error.h"
#include "quern/recipes/internal/html.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "events.out.tfevents.";
constexpr std::size_t kMaxTagBytes = 80;
constexpr int kString = 7;  // of tensorflow's DataType
constexpr int kStart = 1;   // of SessionLog's status

double now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// The lookup table of the reflected polynomial.
constexpr std::array<std::uint32_t, 256> crc_table() {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0x82F63B78u : 0);
    table[i] = crc;
  }
  return table;
}

// The rotation keeps a record of records from having a sum that its parts give away.
std::uint32_t masked(std::uint32_t crc) { return std::rotr(crc, 15) + 0xA282EAD8u; }

void append_little_endian(std::uint64_t value, int bytes, std::string& to) {
  for (int i = 0; i < bytes; ++i) to += char(value >> 8 * i & 0xFF);
}

std::string host_name() {
  std::array<char, 256> name{};
  if (gethostname(name.data(), name.size() - 1) != 0 || name[0] == '\0') return "localhost";
  std::string host(name.data());
  std::replace_if(
      host.begin(), host.end(), [](char c) { return c == '/' || c == '.'; }, '-');
  return host;
}

// Seconds for the new file's name: now, but later than every older file's even where the clock
// went back or two pieces of a run began in one second.
i64 seconds_for_name(const fs::path& folder) {
  i64 seconds = i64(now());
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(kPrefix)) continue;
    i64 theirs = 0;
    std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), theirs);
    if (theirs < 9'999'999'999) seconds = std::max(seconds, theirs + 1);
  }
  return seconds;
}

events::Event event_at(i64 step) {
  events::Event event;
  event.set_wall_time(now());
  event.set_step(step);
  return event;
}

// A tag is a path of the reader's; what a file brought as a name must not make new levels.
std::string tag_part(const std::string& name) {
  std::string part = internal::valid_utf8(internal::shortened(name, kMaxTagBytes));
  for (char& c : part) {
    if (c == '/' || (c >= 0 && c < 0x20)) c = '_';
  }
  return part;
}

// In a folder that is made if need be.
fs::path new_path(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) throw IoError({.file = folder.string(), .what = error.message()});
  return folder / (std::string(kPrefix) + std::to_string(seconds_for_name(folder)) + "." +
                   host_name() + "." + std::to_string(getpid()) + ".0");
}

}  // namespace

namespace internal {

std::uint32_t crc32c(std::string_view bytes) {
  static constexpr std::array<std::uint32_t, 256> kTable = crc_table();
  std::uint32_t crc = ~0u;
  for (const char c : bytes) crc = crc >> 8 ^ kTable[(crc ^ std::uint8_t(c)) & 0xFF];
  return ~crc;
}

std::string event_record(std::string_view bytes) {
  std::string record;
  append_little_endian(bytes.size(), 8, record);
  append_little_endian(masked(crc32c(record)), 4, record);
  record += bytes;
  append_little_endian(masked(crc32c(bytes)), 4, record);
  return record;
}

}  // namespace internal

EventFile::EventFile(const fs::path& folder, i64 done_steps) : out_(new_path(folder)) {
  events::Event version;
  version.set_wall_time(now());
  version.set_file_version("brain.Event:2");
  write(version.SerializeAsString());
  events::Event start = event_at(done_steps + 1);
  start.mutable_session_log()->set_status(kStart);
  write(start.SerializeAsString());
}

void EventFile::scalars(i64 step, const Scalars& values) {
  events::Event event = event_at(step);
  for (const auto& [tag, number] : values) {
    events::Summary::Value* value = event.mutable_summary()->add_value();
    value->set_tag(tag);
    value->set_simple_value(float(number));
  }
  write(event.SerializeAsString());
}

void EventFile::text(i64 step, const std::string& tag, const std::string& text) {
  events::Event event = event_at(step);
  events::Summary::Value* value = event.mutable_summary()->add_value();
  value->set_tag(tag);
  value->mutable_metadata()->mutable_plugin_data()->set_plugin_name("text");
  events::Tensor* tensor = value->mutable_tensor();
  tensor->set_dtype(kString);
  tensor->mutable_tensor_shape()->add_dim()->set_size(1);
  tensor->add_string_val(internal::valid_utf8(text));
  write(event.SerializeAsString());
}

void EventFile::append(const StepMetrics& m) {
  Scalars values = {{"train/loss", m.loss},
                    {"train/aux_loss", m.aux_loss},
                    {"train/lr", m.lr},
                    {"train/grad_norm", m.grad_norm},
                    {"speed/tokens_per_s", m.tokens_per_s},
                    {"speed/share_of_peak", m.share_of_peak},
                    {"seconds/data", m.data_s},
                    {"seconds/forward_backward", m.forward_backward_s},
                    {"seconds/optimizer", m.optimizer_s},
                    {"memory/resident_bytes", double(m.memory_bytes)}};
  if (m.nextn_loss != 0) values.emplace_back("train/nextn_loss", m.nextn_loss);
  if (!m.expert_load.empty()) {
    values.emplace_back("experts/load_max_over_mean", m.load_max_over_mean);
    values.emplace_back("experts/dead", double(m.dead_experts));
    for (const RouterMetric& metric : kRouterMetrics) {
      double sum = 0;
      for (const RouterMetrics& layer : m.router) sum += layer.*metric.value;
      if (m.router.empty()) continue;
      values.emplace_back(std::string("router_mean/") + metric.name, sum / double(m.router.size()));
    }
  }
  scalars(m.step, values);
}

void EventFile::append(const EvalMetrics& m) {
  Scalars values = {{"validation/loss", m.loss}, {"validation/bits_per_byte", m.bits_per_byte}};
  for (const EvalMetrics::Domain& domain : m.domains) {
    values.emplace_back("validation_bits_per_byte/" + tag_part(domain.name), domain.bits_per_byte);
  }
  scalars(m.step, values);
}

// The prompt is the tag, so that a prompt's samples stand one below the other.
void EventFile::append(const SampleMetrics& m) {
  text(m.step, "samples/" + tag_part(m.prompt), "```\n" + m.prompt + m.text + "\n```");
}

void EventFile::append(const EventMetrics& m) {
  text(m.step, "events/" + tag_part(m.name), m.detail.empty() ? m.name : m.detail);
}

void EventFile::append(const PhaseMetrics& m) {
  scalars(m.step, {{"seconds/" + tag_part(m.name), m.seconds}});
}

void EventFile::append(const EnvironmentMetrics& m) {
  std::string table = "| | |\n|---|---|\n";
  for (const auto& [what, value] : m.rows) table += "| " + what + " | " + value + " |\n";
  text(m.step, "environment", table);
}

void EventFile::write(const std::string& message) { out_.append(internal::event_record(message)); }

}  // namespace quern
