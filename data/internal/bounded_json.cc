// SPDX-License-Identifier: MIT
// The limits sit in the parser's callback, so that a value beyond them is never built. The parser
// itself is iterative.
#include "quern/data/internal/bounded_json.h"

#include <algorithm>
#include <unordered_set>
#include <vector>

#include "quern/autograd/error.h"

namespace quern {
namespace {

using Event = nlohmann::json::parse_event_t;

class Gate {
 public:
  Gate(const std::string& file, const JsonLimits& limits) : file_(file), limits_(limits) {}

  void check(int depth, Event event, const nlohmann::json& value) {
    if (depth >= limits_.max_depth) {
      refuse("nests too deeply", std::to_string(limits_.max_depth) + " levels");
    }
    if (event == Event::object_start) {
      keys_.emplace_back();
    } else if (event == Event::object_end) {
      keys_.pop_back();
    } else if (event == Event::key) {
      const auto& key = value.get_ref<const std::string&>();
      if (!keys_.back().insert(key).second) {
        throw DataError({.file = file_, .key = key, .what = "this key occurs twice"});
      }
    }
    if (++values_ > limits_.max_values) {
      refuse("has too many values", std::to_string(limits_.max_values));
    }
  }

 private:
  [[noreturn]] void refuse(const char* what, const std::string& limit) {
    throw DataError({.file = file_, .what = what, .expected = "at most " + limit});
  }

  const std::string& file_;
  const JsonLimits& limits_;
  std::size_t values_ = 0;
  std::vector<std::unordered_set<std::string>> keys_;  // of the objects that are open
};

}  // namespace

nlohmann::json parse_bounded_json(std::string_view text, const std::string& file,
                                  const JsonLimits& limits) {
  if (text.size() > limits.max_bytes) {
    throw DataError({.file = file,
                     .expected = "at most " + std::to_string(limits.max_bytes) + " bytes",
                     .actual = std::to_string(text.size())});
  }
  Gate gate(file, limits);
  const auto callback = [&gate](int depth, Event event, nlohmann::json& value) {
    gate.check(depth, event, value);
    return true;
  };
  try {
    return nlohmann::json::parse(text.begin(), text.end(), callback);
  } catch (const nlohmann::json::exception& error) {
    const auto* at = dynamic_cast<const nlohmann::json::parse_error*>(&error);
    const std::size_t bytes = at == nullptr || at->byte == 0 ? 0 : at->byte - 1;
    const std::string_view before = text.substr(0, bytes);
    const std::size_t line_start = before.find_last_of('\n') + 1;  // npos + 1 is 0
    throw DataError({.file = file,
                     .line = 1 + static_cast<int>(std::count(before.begin(), before.end(), '\n')),
                     .column = 1 + static_cast<int>(before.size() - line_start),
                     .what = "not valid JSON"});
  }
}

}  // namespace quern
