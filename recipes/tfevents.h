// SPDX-License-Identifier: MIT
// TensorBoard event files: a run's curves and samples for `tensorboard --logdir RUN/events`.
#pragma once

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "quern/data/appended_file.h"
#include "quern/recipes/metrics.h"

namespace quern {

// One file of a run's folder of events. Every piece of a run, begun or resumed, writes a file of
// its own, whose name sorts after the older ones': readers take the files in that order, and forget
// of the older ones what lies after the step this piece goes on from.
class EventFile {
 public:
  using Scalars = std::vector<std::pair<std::string, double>>;  // tag, value

  // done_steps: what is done already; 0 for a new run. Throws IoError.
  EventFile(const std::filesystem::path& folder, i64 done_steps);

  const std::filesystem::path& path() const { return out_.path(); }

  // Each call appends one whole record and hands it to the system. Throws IoError.
  void scalars(i64 step, const Scalars& values);
  void text(i64 step, const std::string& tag, const std::string& text);  // shown as Markdown

  void append(const StepMetrics& metrics);
  void append(const EvalMetrics& metrics);
  void append(const SampleMetrics& metrics);
  void append(const EventMetrics& metrics);
  void append(const PhaseMetrics& metrics);
  void append(const EnvironmentMetrics& metrics);

 private:
  void write(const std::string& message);

  AppendedFile out_;
};

namespace internal {

// CRC-32C (Castagnoli) of the bytes: "123456789" gives 0xE3069283.
std::uint32_t crc32c(std::string_view bytes);

// The bytes as a record: length, its masked sum, the bytes, their masked sum.
std::string event_record(std::string_view bytes);

}  // namespace internal

}  // namespace quern
