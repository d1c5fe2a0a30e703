// SPDX-License-Identifier: MIT
#include "quern/recipes/text_stream.h"

#include <algorithm>

namespace quern {
namespace {

// Bytes of the character that begins with this one; 1 where it can begin none.
size_t character_length(unsigned char lead) {
  if (lead >= 0xF0 && lead <= 0xF4) return 4;
  if (lead >= 0xE0 && lead <= 0xEF) return 3;
  return lead >= 0xC2 && lead <= 0xDF ? 2 : 1;
}

// Where the last character begins, if some of its bytes are still to come; else the end.
size_t whole_characters(std::string_view text) {
  for (size_t back = 1; back <= std::min<size_t>(3, text.size()); ++back) {
    const auto byte = static_cast<unsigned char>(text[text.size() - back]);
    if ((byte & 0xC0) == 0x80) continue;  // within a character
    return character_length(byte) > back ? text.size() - back : text.size();
  }
  return text.size();
}

// Bytes at the end of `text` that begin `stop`, without being all of it.
size_t begun(std::string_view text, std::string_view stop) {
  for (size_t n = std::min(text.size(), stop.size() - 1); n > 0; --n) {
    if (text.ends_with(stop.substr(0, n))) return n;
  }
  return 0;
}

}  // namespace

bool TextStream::push(std::string_view bytes) {
  const size_t before = text_.size();
  text_ += bytes;
  size_t cut = std::string::npos;
  for (const std::string& stop : stop_) {
    const size_t from = before >= stop.size() ? before - stop.size() + 1 : 0;
    cut = std::min(cut, text_.find(stop, from));
  }
  if (cut != std::string::npos) {
    text_.resize(cut);
    return true;
  }
  size_t held = 0;
  for (const std::string& stop : stop_) held = std::max(held, begun(text_, stop));
  show(whole_characters(std::string_view(text_).substr(0, text_.size() - held)));
  return false;
}

void TextStream::finish() { show(text_.size()); }

void TextStream::show(size_t end) {
  if (end <= shown_) return;
  if (on_text_) on_text_(text_.substr(shown_, end - shown_));
  shown_ = end;
}

}  // namespace quern
