// SPDX-License-Identifier: MIT
// Cuts text into the pieces inside which byte pairs may merge, by the GPT-2 expression
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
// with Unicode classes. One pass, no regular expression engine, any bytes: a byte that is not part
// of valid UTF-8 counts as a character of the third kind.
#pragma once

#include <cstddef>
#include <string_view>

namespace quern {

// Length in bytes of the first piece of `text`, which is not empty. Takes time linear in the
// result, but for a run of white space, which is read to its end.
std::size_t first_piece(std::string_view text);

// Calls f(piece) for each piece of `text`, in order; the pieces laid end to end are the text.
template <class F>
void for_each_piece(std::string_view text, F&& f) {
  while (!text.empty()) {
    const std::size_t n = first_piece(text);
    f(text.substr(0, n));
    text.remove_prefix(n);
  }
}

// The first place at or after `from` (or the end) where `text` can be cut in two without changing
// its pieces, so that the halves can be worked on apart.
std::size_t next_safe_cut(std::string_view text, std::size_t from);

}  // namespace quern
