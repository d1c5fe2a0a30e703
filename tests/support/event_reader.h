// SPDX-License-Identifier: MIT
// A strict reader of TensorBoard event files, for tests. It shares no code with the writer: records
// are framed and summed bit by bit, messages are taken apart by hand, and anything that the format
// does not name is a fault.
#pragma once

#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace quern::testing {

struct EventValue {
  std::string tag;
  bool is_scalar = false;
  float scalar = 0;
  std::string text;  // where it is not a scalar
};

struct EventRecord {
  double wall_time = 0;
  std::int64_t step = 0;
  std::string file_version;
  bool session_start = false;
  std::vector<EventValue> values;
};

// The records of one file's bytes. Throws std::runtime_error at the first fault, a torn end among
// them.
std::vector<EventRecord> read_events(std::string_view bytes);

}  // namespace quern::testing
