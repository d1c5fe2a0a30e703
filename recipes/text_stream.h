// SPDX-License-Identifier: MIT
// Text that comes token by token: shown in whole characters, ended by stop strings.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace quern {

class TextStream {
 public:
  // on_text, if given, gets each piece as soon as no later token can change it: whole UTF-8
  // characters, and nothing that may be the beginning of a stop string.
  TextStream(std::vector<std::string> stop, std::function<void(const std::string&)> on_text)
      : stop_(std::move(stop)), on_text_(std::move(on_text)) {}

  // Appends a token's bytes. Returns whether the text holds a stop string; it and what follows it
  // is then cut off.
  bool push(std::string_view bytes);
  // Gives on_text what was held back, half a character included.
  void finish();
  const std::string& text() const { return text_; }

 private:
  void show(size_t end);

  std::vector<std::string> stop_;
  std::function<void(const std::string&)> on_text_;
  std::string text_;
  size_t shown_ = 0;
};

}  // namespace quern
