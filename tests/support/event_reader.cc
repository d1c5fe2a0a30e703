// SPDX-License-Identifier: MIT
#include "tests/support/event_reader.h"

#include <cmath>
#include <cstring>
#include <functional>

namespace quern::testing {
namespace {

[[noreturn]] void fault(const std::string& what) { throw std::runtime_error(what); }

template <class T>
T little_endian(std::string_view bytes, std::size_t at) {
  if (at + sizeof(T) > bytes.size()) fault("torn at byte " + std::to_string(at));
  T value = 0;
  for (std::size_t i = sizeof(T); i-- > 0;) value = T(value << 8 | std::uint8_t(bytes[at + i]));
  return value;
}

// CRC-32C, a bit at a time, and TFRecord's mask.
std::uint32_t masked_sum(std::string_view bytes) {
  std::uint32_t crc = 0xFFFFFFFF;
  for (const char c : bytes) {
    for (int bit = 0; bit < 8; ++bit) {
      const bool low = ((crc ^ std::uint32_t(std::uint8_t(c)) >> bit) & 1) != 0;
      crc = (crc >> 1) ^ (low ? 0x82F63B78u : 0u);
    }
  }
  crc ^= 0xFFFFFFFF;
  return ((crc >> 15) | (crc << 17)) + 0xA282EAD8u;
}

// One field of a message: number, wire type, and what it holds.
struct Field {
  std::uint64_t number = 0, wire = 0, integer = 0;
  std::string_view bytes;

  void expect(std::uint64_t type, const char* what) const {
    if (wire != type) fault(std::string(what) + ": wire type " + std::to_string(wire));
  }
  std::uint64_t varint(const char* what) const { return expect(0, what), integer; }
  std::string_view nested(const char* what) const { return expect(2, what), bytes; }
  double f64(const char* what) const {
    expect(1, what);
    double value;
    std::memcpy(&value, &integer, sizeof value);
    return value;
  }
  float f32(const char* what) const {
    expect(5, what);
    const std::uint32_t bits = std::uint32_t(integer);
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }
};

std::uint64_t take_varint(std::string_view& bytes) {
  std::uint64_t value = 0;
  for (int i = 0;; ++i) {
    if (i == 10 || bytes.empty()) fault("a varint without end");
    const std::uint8_t byte = std::uint8_t(bytes.front());
    bytes.remove_prefix(1);
    value |= std::uint64_t(byte & 0x7F) << 7 * i;
    if ((byte & 0x80) == 0) return value;
  }
}

void each_field(std::string_view bytes, const std::function<void(const Field&)>& visit) {
  while (!bytes.empty()) {
    const std::uint64_t key = take_varint(bytes);
    Field field{key >> 3, key & 7};
    std::size_t size = 0;
    if (field.wire == 0) {
      field.integer = take_varint(bytes);
    } else if (field.wire == 1) {
      field.integer = little_endian<std::uint64_t>(bytes, 0), size = 8;
    } else if (field.wire == 5) {
      field.integer = little_endian<std::uint32_t>(bytes, 0), size = 4;
    } else if (field.wire == 2) {
      size = take_varint(bytes);
      if (size > bytes.size()) fault("a field longer than its message");
      field.bytes = bytes.substr(0, size);
    } else {
      fault("wire type " + std::to_string(field.wire));
    }
    bytes.remove_prefix(size);
    visit(field);
  }
}

[[noreturn]] void unknown(const char* message, const Field& field) {
  fault(std::string(message) + " has field " + std::to_string(field.number));
}

// A string tensor of shape [1].
std::string tensor_text(std::string_view bytes) {
  std::string text;
  int dtype = 0, strings = 0;
  std::vector<std::uint64_t> shape;
  each_field(bytes, [&](const Field& f) {
    if (f.number == 1) return void(dtype = int(f.varint("dtype")));
    if (f.number == 8) return ++strings, void(text = f.nested("string_val"));
    if (f.number != 2) unknown("TensorProto", f);
    each_field(f.nested("tensor_shape"), [&](const Field& dim) {
      if (dim.number != 2) unknown("TensorShapeProto", dim);
      each_field(dim.nested("dim"), [&](const Field& size) {
        if (size.number != 1) unknown("Dim", size);
        shape.push_back(size.varint("size"));
      });
    });
  });
  if (dtype != 7 || strings != 1 || shape != std::vector<std::uint64_t>{1}) {
    fault("a tensor that is not one string");
  }
  return text;
}

std::string plugin_of(std::string_view bytes) {
  std::string name;
  each_field(bytes, [&](const Field& f) {
    if (f.number != 1) unknown("SummaryMetadata", f);
    each_field(f.nested("plugin_data"), [&](const Field& p) {
      if (p.number != 1) unknown("PluginData", p);
      name = p.nested("plugin_name");
    });
  });
  return name;
}

EventValue value_of(std::string_view bytes) {
  EventValue value;
  std::string plugin;
  bool has_tensor = false;
  each_field(bytes, [&](const Field& f) {
    if (f.number == 1) {
      value.tag = f.nested("tag");
    } else if (f.number == 2) {
      value.is_scalar = true;
      value.scalar = f.f32("simple_value");
    } else if (f.number == 8) {
      has_tensor = true;
      value.text = tensor_text(f.nested("tensor"));
    } else if (f.number == 9) {
      plugin = plugin_of(f.nested("metadata"));
    } else {
      unknown("Value", f);
    }
  });
  if (value.tag.empty()) fault("a value without tag");
  if (value.is_scalar == has_tensor) fault(value.tag + ": not one of scalar and tensor");
  if (has_tensor && plugin != "text") fault(value.tag + ": plugin " + plugin);
  return value;
}

EventRecord event_of(std::string_view bytes) {
  EventRecord event;
  each_field(bytes, [&](const Field& f) {
    if (f.number == 1) {
      event.wall_time = f.f64("wall_time");
    } else if (f.number == 2) {
      event.step = std::int64_t(f.varint("step"));
    } else if (f.number == 3) {
      event.file_version = f.nested("file_version");
    } else if (f.number == 5) {
      each_field(f.nested("summary"), [&](const Field& v) {
        if (v.number != 1) unknown("Summary", v);
        event.values.push_back(value_of(v.nested("value")));
      });
    } else if (f.number == 7) {
      each_field(f.nested("session_log"), [&](const Field& s) {
        if (s.number != 1 || s.varint("status") != 1) unknown("SessionLog", s);
        event.session_start = true;
      });
    } else {
      unknown("Event", f);
    }
  });
  // Between 2001 and 2286.
  if (!(event.wall_time > 1e9 && event.wall_time < 1e10)) fault("no wall_time");
  if (event.step < 0) fault("a step below 0");
  return event;
}

}  // namespace

std::vector<EventRecord> read_events(std::string_view bytes) {
  std::vector<EventRecord> events;
  for (std::size_t at = 0; at < bytes.size();) {
    const std::uint64_t length = little_endian<std::uint64_t>(bytes, at);
    if (little_endian<std::uint32_t>(bytes, at + 8) != masked_sum(bytes.substr(at, 8))) {
      fault("the length at byte " + std::to_string(at) + " fails its sum");
    }
    if (length > bytes.size() - at - 12) fault("torn at byte " + std::to_string(at));
    const std::string_view message = bytes.substr(at + 12, length);
    if (little_endian<std::uint32_t>(bytes, at + 12 + length) != masked_sum(message)) {
      fault("the message at byte " + std::to_string(at) + " fails its sum");
    }
    EventRecord event = event_of(message);
    const bool is_version = !event.file_version.empty();
    if (is_version != events.empty())
      fault("file_version must be in the first record, and there only");
    if (is_version && (event.file_version != "brain.Event:2" || event.step != 0 ||
                       !event.values.empty() || event.session_start)) {
      fault("a first record with more than its version");
    }
    events.push_back(std::move(event));
    at += 16 + length;
  }
  if (events.empty()) fault("an empty file");
  return events;
}

}  // namespace quern::testing
